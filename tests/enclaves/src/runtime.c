/* SPDX-License-Identifier: GPL-2.0-or-later */
/* The trusted runtime of the test enclaves: what an SDK would link in. */
#include "enclave.h"

/* g_global_data: its first word is the SDK's version, the rest is written by the
 * loader from the metadata. SDK_VERSION and GLOBAL_DATA_SIZE come from the Makefile. */
struct global_data {
    uint64_t sdk_version;
    uint8_t filled_at_load[GLOBAL_DATA_SIZE - sizeof(uint64_t)];
};

EXPORT __attribute__((section(".data.rel.ro.global_data"), used))
const volatile struct global_data g_global_data = {SDK_VERSION, {0}};

EXPORT uint64_t g_peak_heap_used;
EXPORT uint64_t g_peak_rsrv_mem_committed;

__thread uint64_t thread_seed = 0x0123456789abcdef;
__thread struct thread_state thread_state;

#ifdef BUILD_STAMP
/* A build that writes its place or time into the enclave. */
const char build_stamp[] = BUILD_STAMP;
#endif

/* The compiler may call these two by itself. */
void *memset(void *target, int byte, size_t size)
{
    volatile uint8_t *to = target;

    while (size-- > 0)
        *to++ = (uint8_t)byte;
    return target;
}

void *memcpy(void *target, const void *source, size_t size)
{
    volatile uint8_t *to = target;
    const uint8_t *from = source;

    while (size-- > 0)
        *to++ = *from++;
    return target;
}

int same_bytes(const void *one, const void *other, size_t size)
{
    const uint8_t *left = one, *right = other;
    uint8_t difference = 0;

    while (size-- > 0)
        difference |= *left++ ^ *right++;
    return difference == 0;
}

/* Four FNV-1a lanes. A digest in name only: it makes code and constants to compare. */
void toy_digest(const uint8_t *data, size_t size, uint8_t digest[DIGEST_SIZE])
{
    uint64_t lane[4] = {0xcbf29ce484222325, 0x84222325cbf29ce4, 0x100000001b3, 0x1b300000001};
    size_t i;

    for (i = 0; i < size; i++)
        lane[i & 3] = (lane[i & 3] ^ data[i]) * 0x100000001b3;
    for (i = 0; i < DIGEST_SIZE; i++)
        digest[i] = (uint8_t)(lane[i >> 3] >> (8 * (i & 7)));
}

int dispatch(uint64_t index, uint8_t *buffer, size_t size)
{
    thread_state.calls++;
#ifdef BUILD_STAMP
    if (index == UINT64_MAX)
        return build_stamp[size % sizeof(build_stamp)];
#endif
    if (index >= enclave_call_count)
        return -1;
    return enclave_calls[index].function(buffer, size);
}

#ifdef SHARED
/* A shared object asks for its thread variables through this function. */
struct tls_index {
    uint64_t module, offset;
};

__attribute__((visibility("hidden"), used))
void *__tls_get_addr(const struct tls_index *index)
{
    uint8_t *self;

    __asm__("mov %%fs:0, %0" : "=r"(self));
    return self + index->offset;
}
#endif
