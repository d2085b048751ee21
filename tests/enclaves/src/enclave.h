/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What the parts of a test enclave share. Nothing here ever runs in SGX: the
 * enclaves exist to be signed, measured and compared. */
#ifndef ENCLAVE_H
#define ENCLAVE_H

#include <stddef.h>
#include <stdint.h>

#define EXPORT __attribute__((visibility("default")))

#define DIGEST_SIZE 32

/* An entry point, as the table of a trusted bridge holds it. */
typedef int (*call_t)(uint8_t *buffer, size_t size);

struct call {
    const char *name;
    call_t function;
};

/* Each enclave brings its own table. */
extern const struct call enclave_calls[];
extern const size_t enclave_call_count;

/* The thread's own scratch space. */
struct thread_state {
    uint64_t calls;
    uint8_t digest[DIGEST_SIZE];
};
extern __thread struct thread_state thread_state;
extern __thread uint64_t thread_seed;

void *memset(void *target, int byte, size_t size);
void *memcpy(void *target, const void *source, size_t size);
int same_bytes(const void *one, const void *other, size_t size);
void toy_digest(const uint8_t *data, size_t size, uint8_t digest[DIGEST_SIZE]);
int dispatch(uint64_t index, uint8_t *buffer, size_t size);

#endif
