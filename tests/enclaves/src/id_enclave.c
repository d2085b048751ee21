/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Plays the part of the identity enclave. */
#include "enclave.h"

static const char label[] = "platform identity";

static int get_id(uint8_t *buffer, size_t size)
{
    uint8_t seed[sizeof(label) + sizeof(uint64_t)];

    if (size < DIGEST_SIZE)
        return -2;
    memcpy(seed, label, sizeof(label));
    memcpy(seed + sizeof(label), &thread_seed, sizeof(uint64_t));
    toy_digest(seed, sizeof(seed), buffer);
    return 0;
}

const struct call enclave_calls[] = {
    {"get_id", get_id},
};
const size_t enclave_call_count = sizeof(enclave_calls) / sizeof(enclave_calls[0]);
