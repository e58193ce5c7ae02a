/* A CUDA driver in host memory, so that the real pycuda and cuda-python can be used without a GPU.

   gcc -shared -fPIC -o libcuda.so.1 fake_libcuda.c -ldl

   FAKE_CUDA_INIT   what cuInit returns, 0 without it
   FAKE_CUDA_GPUS   the number of GPUs, 1 without it
   FAKE_CUDA_BYTES  device memory in bytes
   FAKE_CUDA_LOG    a file that each call is named in, one a line

   What needs a context fails without one (201), and an address that was not allocated is refused (1). */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long address;
enum { OK = 0, INVALID_VALUE = 1, NO_ROOM = 2, NO_DEVICE = 100, NO_CONTEXT = 201, NOT_FOUND = 500 };
enum { MOST = 4096, DEEPEST = 64 };

static struct { char *start; size_t size; int pinned; } live[MOST];
static size_t used;
static __thread void *contexts[DEEPEST];
static __thread int depth;
static char primary[1];

static long setting(const char *name, long otherwise) {
    const char *text = getenv(name);
    return text ? atol(text) : otherwise;
}

static void called(const char *name) {
    const char *file = getenv("FAKE_CUDA_LOG");
    FILE *log = file ? fopen(file, "a") : NULL;
    if (log) {
        fprintf(log, "%s\n", name);
        fclose(log);
    }
}

#define CALLED called(__func__)
#define IN_CONTEXT do { CALLED; if (!depth) return NO_CONTEXT; } while (0)

static int find(const void *start, size_t size) {
    for (int i = 0; i < MOST; i++)
        if (live[i].start && live[i].start <= (char *)start && (char *)start + size <= live[i].start + live[i].size)
            return i;
    return -1;
}

static int allocate(void **result, size_t size, int pinned) {
    if (!size) return INVALID_VALUE;
    if (!pinned && used + size > (size_t)setting("FAKE_CUDA_BYTES", 1L << 30)) {
        called("no room");
        return NO_ROOM;
    }
    for (int i = 0; i < MOST; i++)
        if (!live[i].start) {
            live[i].start = aligned_alloc(256, (size + 255) / 256 * 256);
            live[i].size = size;
            live[i].pinned = pinned;
            if (!pinned) used += size;
            *result = live[i].start;
            return OK;
        }
    return NO_ROOM;
}

static int release(void *start) {
    int i = find(start, 0);
    if (i < 0 || live[i].start != start) return INVALID_VALUE;
    if (!live[i].pinned) used -= live[i].size;
    free(live[i].start);
    live[i].start = NULL;
    return OK;
}

int cuInit(unsigned flags) { CALLED; return (int)setting("FAKE_CUDA_INIT", 0); }
int cuDriverGetVersion(int *version) { CALLED; *version = 12060; return OK; }
int cuDeviceGetCount(int *count) { CALLED; *count = (int)setting("FAKE_CUDA_GPUS", 1); return OK; }
int cuDeviceGet(int *device, int ordinal) { CALLED; *device = ordinal; return ordinal ? NO_DEVICE : OK; }
int cuDeviceGetName(char *name, int size, int device) { CALLED; snprintf(name, size, "Fake GPU"); return OK; }
int cuDeviceTotalMem_v2(size_t *size, int device) { CALLED; *size = 1UL << 30; return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    CALLED;
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : 1;
    return OK;
}

int cuGetErrorName(int code, const char **text) {
    *text = code == OK ? "CUDA_SUCCESS" : code == INVALID_VALUE ? "CUDA_ERROR_INVALID_VALUE"
          : code == NO_ROOM ? "CUDA_ERROR_OUT_OF_MEMORY" : code == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE"
          : code == NO_CONTEXT ? "CUDA_ERROR_INVALID_CONTEXT" : NULL;
    return *text ? OK : INVALID_VALUE;
}
int cuGetErrorString(int code, const char **text) { return cuGetErrorName(code, text); }

int cuDevicePrimaryCtxRetain(void **context, int device) { CALLED; *context = primary; return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { CALLED; return OK; }
int cuCtxPushCurrent_v2(void *context) { CALLED; contexts[depth++] = context; return OK; }
int cuCtxPopCurrent_v2(void **context) {
    CALLED;
    if (!depth) return NO_CONTEXT;
    *context = contexts[--depth];
    return OK;
}
int cuCtxGetCurrent(void **context) { *context = depth ? contexts[depth - 1] : NULL; return OK; }
int cuCtxGetDevice(int *device) { IN_CONTEXT; *device = 0; return OK; }
int cuCtxDetach(void *context) { CALLED; return OK; }

int cuMemAlloc_v2(address *result, size_t size) { IN_CONTEXT; return allocate((void **)result, size, 0); }
int cuMemFree_v2(address start) { IN_CONTEXT; return release((void *)start); }
int cuMemHostAlloc(void **result, size_t size, unsigned flags) { IN_CONTEXT; return allocate(result, size, 1); }
int cuMemAllocHost_v2(void **result, size_t size) { IN_CONTEXT; return allocate(result, size, 1); }
int cuMemFreeHost(void *start) { IN_CONTEXT; return release(start); }

int cuMemcpyHtoDAsync_v2(address target, const void *source, size_t size, void *stream) {
    IN_CONTEXT;
    if (find((void *)target, size) < 0 || !stream) return INVALID_VALUE;
    memcpy((void *)target, source, size);
    return OK;
}
int cuMemcpyDtoHAsync_v2(void *target, address source, size_t size, void *stream) {
    IN_CONTEXT;
    if (find((void *)source, size) < 0 || !stream) return INVALID_VALUE;
    memcpy(target, (void *)source, size);
    return OK;
}
int cuMemcpyDtoDAsync_v2(address target, address source, size_t size, void *stream) {
    IN_CONTEXT;
    if (find((void *)target, size) < 0 || find((void *)source, size) < 0 || !stream) return INVALID_VALUE;
    memmove((void *)target, (void *)source, size);
    return OK;
}

int cuStreamCreate(void **stream, unsigned flags) { IN_CONTEXT; *stream = primary; return flags == 1 ? OK : INVALID_VALUE; }
int cuStreamSynchronize(void *stream) { IN_CONTEXT; return stream ? OK : INVALID_VALUE; }
int cuStreamDestroy_v2(void *stream) { CALLED; return OK; }

static int look_up(const char *symbol, void **function) {
    char versioned[128];
    snprintf(versioned, sizeof versioned, "%s_v2", symbol);
    Dl_info self;
    dladdr((void *)cuInit, &self);
    void *library = dlopen(self.dli_fname, RTLD_LAZY | RTLD_NOLOAD);
    *function = dlsym(library, versioned);
    if (!*function) *function = dlsym(library, symbol);
    return *function ? OK : NOT_FOUND;
}
int cuGetProcAddress(const char *symbol, void **function, int version, unsigned long flags) {
    return look_up(symbol, function);
}
int cuGetProcAddress_v2(const char *symbol, void **function, int version, unsigned long flags, int *status) {
    int code = look_up(symbol, function);
    if (status) *status = code ? 1 : 0;
    return code;
}
