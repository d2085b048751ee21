/* SPDX-License-Identifier: GPL-2.0-or-later */
/* Plays the part of the quoting enclave for trust domains. */
#include "enclave.h"

static uint8_t report_digest[2 * DIGEST_SIZE];

static int get_report(uint8_t *buffer, size_t size)
{
    if (size < sizeof(report_digest))
        return -2;
    toy_digest(buffer, size, report_digest);
    toy_digest(report_digest, DIGEST_SIZE, report_digest + DIGEST_SIZE);
    memcpy(buffer, report_digest, sizeof(report_digest));
    return 0;
}

static int check_report(uint8_t *buffer, size_t size)
{
    return size >= sizeof(report_digest) &&
                   same_bytes(buffer, report_digest, sizeof(report_digest))
               ? 0
               : -3;
}

const struct call enclave_calls[] = {
    {"get_report", get_report},
    {"check_report", check_report},
};
const size_t enclave_call_count = sizeof(enclave_calls) / sizeof(enclave_calls[0]);
