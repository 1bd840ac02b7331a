/* Preloaded into a process, it adds seconds to what the kernel answers: to the wall clock the first number in the file
   $CLOCK_FILE, to the clocks since boot the second. The file may change at any time. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static void read_offsets(long *wall_s, long *boot_s) {
    const char *path = getenv("CLOCK_FILE");
    FILE *file = path ? fopen(path, "re") : NULL;
    *wall_s = *boot_s = 0;
    if (file) {
        if (fscanf(file, "%ld %ld", wall_s, boot_s) != 2)
            *wall_s = *boot_s = 0;
        fclose(file);
    }
}

int clock_gettime(clockid_t id, struct timespec *now) {
    long wall_s, boot_s;
    int failure = (int)syscall(SYS_clock_gettime, id, now);
    if (failure)
        return failure;
    read_offsets(&wall_s, &boot_s);
    if (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)
        now->tv_sec += wall_s;
    else if (id == CLOCK_MONOTONIC || id == CLOCK_MONOTONIC_COARSE || id == CLOCK_MONOTONIC_RAW || id == CLOCK_BOOTTIME)
        now->tv_sec += boot_s;
    return 0;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec precise;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &precise);
    now->tv_sec = precise.tv_sec;
    now->tv_usec = precise.tv_nsec / 1000;
    return 0;
}

time_t time(time_t *result) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (result)
        *result = now.tv_sec;
    return now.tv_sec;
}
