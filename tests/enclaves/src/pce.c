/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Plays the part of the provisioning certification enclave. */
#include "enclave.h"

#ifndef CERTIFICATION_SALT
#define CERTIFICATION_SALT 0x5ca1ab1e
#endif

static const uint32_t certification_salt = CERTIFICATION_SALT;
static uint8_t last_request[256];
static uint32_t request_count = 1;

static int get_info(uint8_t *buffer, size_t size)
{
    if (size < 2 * sizeof(uint32_t))
        return -2;
    memcpy(buffer, &certification_salt, sizeof(uint32_t));
    memcpy(buffer + sizeof(uint32_t), &request_count, sizeof(uint32_t));
    return 0;
}

static int certify(uint8_t *buffer, size_t size)
{
    size_t i;

    if (size < DIGEST_SIZE || size > sizeof(last_request))
        return -2;
    for (i = 0; i < size; i++)
        last_request[i] = buffer[i] ^ (uint8_t)(certification_salt >> (8 * (i & 3)));
    toy_digest(last_request, size, thread_state.digest);
    memcpy(buffer, thread_state.digest, DIGEST_SIZE);
    request_count++;
    return 0;
}

static int forget(uint8_t *buffer, size_t size)
{
    (void)buffer;
    (void)size;
    memset(last_request, 0, sizeof(last_request));
    memset(thread_state.digest, 0, DIGEST_SIZE);
    thread_seed = thread_seed * 6364136223846793005u + 1442695040888963407u;
    return (int)(thread_seed >> 40);
}

const struct call enclave_calls[] = {
    {"get_info", get_info},
    {"certify", certify},
    {"forget", forget},
};
const size_t enclave_call_count = sizeof(enclave_calls) / sizeof(enclave_calls[0]);
