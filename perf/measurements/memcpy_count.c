/* SPDX-License-Identifier: Apache-2.0
 *
 * LD_PRELOAD library that counts the bytes of large memcpy, memmove and mempcpy calls by the library that makes
 * them. Written out when the process ends; used by perf/copies.py. It sees calls through the dynamic linker, so not
 * loops of a compiler's or JIT's own; those of NumPy's contiguous copies, of memoryview and of grpc's core are calls.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THRESHOLD 16384 /* grpc moves a message in slices of this size and more */
#define MAX_CALLERS 64

static struct {
    void *base;
    const char *name;
    volatile uint64_t bytes, calls;
} callers[MAX_CALLERS];

static void note(void *from, size_t length) {
    Dl_info info;
    if (!dladdr(from, &info)) return;
    for (int i = 0; i < MAX_CALLERS; i++) {
        if (callers[i].base == NULL && __sync_bool_compare_and_swap(&callers[i].base, NULL, info.dli_fbase))
            callers[i].name = info.dli_fname;
        if (callers[i].base == info.dli_fbase) {
            __sync_fetch_and_add(&callers[i].bytes, length);
            __sync_fetch_and_add(&callers[i].calls, 1);
            return;
        }
    }
}

/* Byte loops that the compiler must not turn into calls of the functions they stand for. */
static void *forward(void *to, const void *from, size_t length) {
    void *end = to;
    __asm__ volatile("rep movsb" : "+D"(end), "+S"(from), "+c"(length) : : "memory");
    return to;
}

void *memcpy(void *restrict to, const void *restrict from, size_t length) {
    if (length >= THRESHOLD) note(__builtin_return_address(0), length);
    return forward(to, from, length);
}

void *mempcpy(void *restrict to, const void *restrict from, size_t length) {
    if (length >= THRESHOLD) note(__builtin_return_address(0), length);
    return (char *)forward(to, from, length) + length;
}

void *memmove(void *to, const void *from, size_t length) {
    if (length >= THRESHOLD) note(__builtin_return_address(0), length);
    if ((uintptr_t)to - (uintptr_t)from >= length) return forward(to, from, length);
    unsigned char *t = (unsigned char *)to + length;
    const unsigned char *f = (const unsigned char *)from + length;
    while (length--) *--t = *--f;
    return to;
}

__attribute__((destructor)) static void write_out(void) {
    const char *directory = getenv("MEMCPY_COUNT_DIRECTORY");
    char path[4096];
    if (directory == NULL) return;
    snprintf(path, sizeof path, "%s/%d", directory, getpid());
    FILE *file = fopen(path, "w");
    if (file == NULL) return;
    for (int i = 0; i < MAX_CALLERS && callers[i].base != NULL; i++)
        fprintf(file, "%s\t%llu\t%llu\n", callers[i].name ? callers[i].name : "?",
                (unsigned long long)callers[i].calls, (unsigned long long)callers[i].bytes);
    fclose(file);
}
