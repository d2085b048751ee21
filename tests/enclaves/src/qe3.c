/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Plays the part of the quoting enclave. It exports a function and an object and
 * uses both itself: a shared object reaches them through JUMP_SLOT and GLOB_DAT. */
#include "enclave.h"

EXPORT uint64_t quote_counter = 3;
static uint8_t sealed_key[DIGEST_SIZE];
static uint8_t quote_buffer[3 * 4096 + 17];

EXPORT __attribute__((noinline)) int derive_key(const uint8_t *data, size_t size)
{
    toy_digest(data, size, sealed_key);
    quote_counter += size;
    return 0;
}

static int gen_key(uint8_t *buffer, size_t size)
{
    return derive_key(buffer, size);
}

static int get_quote(uint8_t *buffer, size_t size)
{
    size_t i;

    if (size < DIGEST_SIZE || size > sizeof(quote_buffer) - DIGEST_SIZE)
        return -2;
    memcpy(quote_buffer, sealed_key, DIGEST_SIZE);
    for (i = 0; i < size; i++)
        quote_buffer[DIGEST_SIZE + i] = buffer[i] + (uint8_t)quote_counter;
    toy_digest(quote_buffer, size + DIGEST_SIZE, buffer);
    quote_counter++;
    return 0;
}

static int verify_key(uint8_t *buffer, size_t size)
{
    return size >= DIGEST_SIZE && same_bytes(buffer, sealed_key, DIGEST_SIZE) ? 0 : -3;
}

const struct call enclave_calls[] = {
    {"gen_key", gen_key},
    {"get_quote", get_quote},
    {"verify_key", verify_key},
};
const size_t enclave_call_count = sizeof(enclave_calls) / sizeof(enclave_calls[0]);
