#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-or-later
# A check of fedora-review, by its interface for shell scripts; docs/rpmlint.md says how to use it.
#
# @name: SgxEnclaves
# @group: Generic
# @type: MUST
# @url: https://pagure.io/fesco/issue/3205
# @text: Signed SGX enclaves are a build from source plus a signature, and nothing else.
# @register-flag: SGX_REFERENCE Unsigned SGX enclaves: a package, a directory or a manifest.json

rpms=($(get_used_rpms)) || exit $FR_NOT_APPLICABLE
references=()
for reference in ${FR_FLAGS[SGX_REFERENCE]:-/usr/x86_64-intel-sgx/share/reproducible/*}; do
    [ -e "$reference" ] && references+=(--reference "$reference")
done
said=$(sgx-enclaves check-rpm --quiet "${references[@]}" "${rpms[@]}" 2>&1)
status=$?
grep -qv ': no enclave$' <<< "$said" || exit $FR_NOT_APPLICABLE
attach 6 'SGX enclaves (sgx-enclaves check-rpm)' <<< "$said"
case $status in
    0) exit $FR_PASS ;;
    1) echo 'One is not a build from source plus a signature: see attachment.'; exit $FR_FAIL ;;
    *) echo 'Nothing was proved: see attachment.'; exit $FR_PENDING ;;
esac
