import de.bwaldvogel.mongo.MongoServer;
import de.bwaldvogel.mongo.MongoVersion;
import de.bwaldvogel.mongo.backend.h2.H2Backend;
import de.bwaldvogel.mongo.bson.Document;
import de.bwaldvogel.mongo.wire.message.MongoMessage;
import java.util.List;
import java.util.Locale;
import org.h2.mvstore.MVStore;

/** A server that speaks MongoDB's protocol and answers a write only after it is on disk: Main PORT FILE. */
public class Main {
    private static final List<String> WRITES = List.of("insert", "update", "delete", "findandmodify", "create", "drop");

    /** pymongo refuses servers below wire version 9; 13 is what MongoDB 5.0 really says. */
    private static final MongoVersion VERSION = new MongoVersion() {
        public List<Integer> getVersionArray() { return List.of(5, 0, 0); }
        public int getWireVersion() { return 13; }
    };

    public static void main(String[] arguments) {
        MVStore store = new MVStore.Builder().fileName(arguments[1]).autoCommitDisabled().open();
        H2Backend backend = new H2Backend(store) {
            @Override public Document handleMessage(MongoMessage message) {
                Document answer = super.handleMessage(message);
                String command = message.getDocument().keySet().iterator().next().toLowerCase(Locale.ROOT);
                if (WRITES.stream().anyMatch(command::startsWith)) {
                    store.commit();
                    store.sync();
                }
                return answer;
            }
        };
        MongoServer server = new MongoServer(backend.version(VERSION));
        server.bind("127.0.0.1", Integer.parseInt(arguments[0]));
        System.out.println("listening on 127.0.0.1:" + arguments[0]);
    }
}
