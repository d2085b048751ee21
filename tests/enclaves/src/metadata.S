/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The note that the signing tool fills in: it is never loaded, and the
 * descriptor follows the 13 bytes of the name without any padding. */
    .section .note.sgxmeta, "", @note
    .balign 1
    .long 13
    .long DESCRIPTOR_SIZE
    .long 1
    .asciz "sgx_metadata"
    .zero DESCRIPTOR_SIZE
    .section .note.GNU-stack, "", @progbits
