/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The entry point: EENTER lands here with the call's index in %rdi, the buffer
 * in %rsi and its size in %rdx. It leaves with EEXIT to the address in %rcx. */
    .text
    .globl enclave_entry
    .type enclave_entry, @function
    .p2align 4
enclave_entry:
    cld
    push %rbp
    mov %rsp, %rbp
    push %rcx
    call dispatch
    mov %rax, %rdx
    pop %rbx
    /* Nothing secret may leave in a register. */
    xor %ecx, %ecx
    xor %esi, %esi
    xor %edi, %edi
    xor %r8d, %r8d
    xor %r9d, %r9d
    xor %r10d, %r10d
    xor %r11d, %r11d
    mov $4, %eax
    .byte 0x0f, 0x01, 0xd7 /* enclu */
    ud2
    .size enclave_entry, . - enclave_entry

#ifdef TEXTREL_CODE
    /* An absolute address between the instructions. */
    .p2align 3
    .quad enclave_calls
#endif
#ifdef TEXTREL
    /* An absolute address in a read-only section. */
    .section .rodata.textrel, "a", @progbits
    .p2align 3
    .quad enclave_calls
#endif
    .section .note.GNU-stack, "", @progbits
