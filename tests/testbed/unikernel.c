/* A one-file multiboot unikernel for tests. It prints its command line on the first serial port; then, by the
 * words of the command line, it
 *   exit=N       exits through the isa-debug-exit device at 0xf4 (QEMU's status is then (N << 1) | 1),
 *   panic        halts with interrupts off, as a crashed guest would,
 *   (neither)    prints "count 0", "count 1", … every 100 ms for ever, halted in between (interval=MS changes it).
 */
typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;

__attribute__((section(".multiboot"), used, aligned(4))) static const u32 multiboot_header[3] = {
    0x1BADB002, 0x00000000, 0u - 0x1BADB002};

__asm__(".section .text\n"
        ".globl _start\n"
        "_start: cli\n"
        "mov $stack_top, %esp\n"
        "push %ebx\n"
        "call start\n"
        ".globl on_timer\n"
        "on_timer: incl ticks\n"
        "movl $0, 0xFEE000B0\n" /* end of interrupt */
        "iret\n"
        ".section .bss\n"
        ".align 16\n"
        ".skip 16384\n"
        "stack_top:\n"
        ".section .text\n");

extern void on_timer(void);
volatile u32 ticks;

struct table { u16 limit; u32 base; } __attribute__((packed));
struct gate { u16 low, selector, flags, high; } __attribute__((packed));

static const unsigned long long segments[3] = {0, 0x00CF9A000000FFFFull, 0x00CF92000000FFFFull};
static struct gate gates[33];

enum { SERIAL = 0x3f8, DEBUG_EXIT = 0xf4, TICKS_PER_S = 100, TIMER_GATE = 32, CODE = 8, DATA = 16 };
enum { APIC = 0xFEE00000, APIC_HZ = 1000000000 }; /* the rate of QEMU's and of KVM's local APIC timer */

static void out(u16 port, u8 value) { __asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port)); }

static u8 in(u16 port) {
    u8 value;
    __asm__ volatile("inb %1, %0" : "=a"(value) : "Nd"(port));
    return value;
}

static void print(const char *text) {
    for (; *text; text++) {
        while (!(in(SERIAL + 5) & 0x20)) {
        }
        out(SERIAL, (u8)*text);
    }
}

static void print_number(u32 number) {
    char digits[11];
    char *first = digits + 10;
    *first = 0;
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    print(first);
}

/* What follows `word` in `text`; a null pointer if it does not occur. */
static const char *after(const char *text, const char *word) {
    for (; *text; text++) {
        u32 length = 0;
        while (word[length] && text[length] == word[length]) length++;
        if (!word[length]) return text + length;
    }
    return 0;
}

static u32 number_at(const char *text) {
    u32 number = 0;
    while (*text >= '0' && *text <= '9') number = number * 10 + (u32)(*text++ - '0');
    return number;
}

/* Own segments, because the boot loader's may be gone, and one gate for the timer. */
static void load_tables(void) {
    struct table gdt = {sizeof segments - 1, (u32)segments};
    struct table idt = {sizeof gates - 1, (u32)gates};
    u32 handler = (u32)on_timer;
    gates[TIMER_GATE] = (struct gate){(u16)handler, CODE, 0x8E00, (u16)(handler >> 16)};
    __asm__ volatile("lgdt %0\n ljmp %2, $1f\n 1: mov %3, %%ds\n mov %3, %%es\n mov %3, %%ss\n lidt %1"
                     ::"m"(gdt), "m"(idt), "i"(CODE), "r"(DATA) : "memory");
}

static void set_apic(u32 offset, u32 value) { *(volatile u32 *)(APIC + offset) = value; }

/* Timer interrupts, and only these, TICKS_PER_S times a second, from the local APIC: a microvm may lack a PIT. */
static void start_timer(void) {
    out(0x21, 0xFF);
    out(0xA1, 0xFF);
    set_apic(0xF0, 0x1FF);
    set_apic(0x3E0, 0xB);
    set_apic(0x320, 0x20000 | TIMER_GATE);
    set_apic(0x380, APIC_HZ / TICKS_PER_S);
    __asm__ volatile("sti");
}

static void count_forever(u32 interval_ms) {
    u32 step = interval_ms * TICKS_PER_S / 1000;
    load_tables();
    start_timer();
    for (u32 count = 0;; count++) {
        u32 due = ticks + (step ? step : 1);
        print("count ");
        print_number(count);
        print("\n");
        while ((int)(ticks - due) < 0) __asm__ volatile("hlt");
    }
}

__attribute__((used)) void start(const u32 *multiboot_info) {
    const char *command_line = (multiboot_info[0] & 4) ? (const char *)multiboot_info[4] : "";
    const char *exit_code = after(command_line, "exit=");
    const char *interval = after(command_line, "interval=");
    print("unikernel: ");
    print(command_line);
    print("\n");
    if (exit_code) out(DEBUG_EXIT, (u8)number_at(exit_code));
    if (after(command_line, "panic")) __asm__ volatile("cli\n hlt");
    count_forever(interval ? number_at(interval) : 100);
}
