/* The guest of the accelerator's probe boot: takes ten timer interrupts, halted in between, then exits with 42.
 * A virtual /dev/kvm may run simple code and fail at exactly this: interrupts, MMIO and IRET in protected mode.
 * as --32 probe.S -o probe.o && ld -m elf_i386 -Ttext=0x100000 --oformat binary probe.o -o probe.bin
 */
.globl _start
_start:
header:
  .long 0x1BADB002, 0x00010000, -(0x1BADB002 + 0x00010000)
  .long header, _start, end, end, begin       /* load addresses: a flat binary */
begin:
  cli
  movl $stack, %esp
  lgdt gdt_pointer
  ljmp $8, $1f
1: movw $16, %ax
  movw %ax, %ds
  movw %ax, %ss
  lidt idt_pointer
  movb $0xFF, %al
  outb %al, $0x21
  outb %al, $0xA1
  movl $0x1FF, 0xFEE000F0                     /* local APIC on */
  movl $0xB, 0xFEE003E0                       /* divide by 1 */
  movl $0x20020, 0xFEE00320                   /* periodic, vector 32 */
  movl $1000000, 0xFEE00380                   /* 1 ms */
  sti
2: hlt
  cmpl $10, ticks
  jb 2b
  movb $42, %al
  outb %al, $0xF4
on_timer:
  incl ticks
  movl $0, 0xFEE000B0                         /* end of interrupt */
  iret
  .align 8
gdt: .quad 0, 0x00CF9A000000FFFF, 0x00CF92000000FFFF
idt: .word on_timer - _start, 8, 0x8E00, 0x10
gdt_pointer: .word 23
  .long gdt
idt_pointer: .word 33 * 8 - 1
  .long idt - 32 * 8
ticks: .long 0
  .skip 64
stack:
end:
