/* A stand-in for NVIDIA's management library (soname libnvidia-ml.so.1), written for these tests.
 *
 * It answers from the text file named in NVML_FAKE_STATE, which is read again whenever it changes. One thing a line,
 * `kind key=value ...`; an underscore in a value stands for a space; memory is in MiB, power in W, temperature in C:
 *
 *   driver  version=575.51.03 cuda=12090 generation=1 state=loaded|gone|mismatch
 *   gpu     uuid= model= memory= used= reserved= capability=9.0 bus= numa= power= limit= temperature= slowdown= utilization=
 *           ecc= remap_pending= remap_failed= nvlink=1,2 mig=1 lost=1         (numbered from 0 in the order of the lines)
 *   slice   gpu=0 gi=1 ci=0 uuid= profile=1g.10gb memory= used=
 *   process gpu=0 pid= memory= gi= lists=CGM                                  (compute, graphics, MPS; C without it)
 *                                                                             (no memory: the driver does not know)
 *   xid     serial=1 gpu=0 code=79 gi=                                        (once each, if watched or stray=1)
 *   hangs   call=nvmlDeviceGetTemperature gpu=0                               (never returns; no gpu: on all)
 *   crashes call=nvmlDeviceGetTemperature gpu=0                               (takes the process with it)
 *   fails   call=nvmlDeviceGetPowerUsage code=3 gpu=0                         (no gpu: on all)
 *
 * A new `generation` is a driver that was loaded anew: calls say "uninitialized" until nvmlInit, old handles are invalid.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MIB (1024ULL * 1024ULL)
#define MAX_LINES 512
#define LINE 512
#define NONE 0xFFFFFFFFu
#define NOT_AVAILABLE 0xFFFFFFFFFFFFFFFFULL

enum { OK = 0, UNINITIALIZED = 1, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9, TIMEOUT = 10, LOST = 15,
       MISMATCH = 18 };

typedef uintptr_t handle; /* generation << 20 | (gpu + 1) << 8 | (slice + 1) */
typedef unsigned long long u64;

typedef struct { u64 total, free, used; } memory_v1;
typedef struct { unsigned version; u64 total, reserved, free, used; } memory_v2;
typedef struct { unsigned gpu, memory; } utilization;
typedef struct { unsigned pid; u64 memory; unsigned gi, ci; } process;
typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci;
typedef struct { handle device; u64 type, data; unsigned gi, ci; } event;
typedef struct { unsigned sm, copy, decoder, encoder, jpeg, ofa, gpu_slices, compute_slices; u64 memory_mb; } attributes;

static char lines[MAX_LINES][LINE];
static int line_count;
static struct stat seen;
static long initialized, delivered;
static u64 watched, were_lost; /* GPUs, one bit each */
static int set_is_dead;

/* ---- the state file ---- */

static void reread(void)
{
    const char *path = getenv("NVML_FAKE_STATE");
    struct stat now;
    FILE *file;
    if (!path || stat(path, &now) != 0) {
        line_count = 0;
        memset(&seen, 0, sizeof seen);
        return;
    }
    if (now.st_ino == seen.st_ino && now.st_size == seen.st_size && now.st_mtim.tv_sec == seen.st_mtim.tv_sec
        && now.st_mtim.tv_nsec == seen.st_mtim.tv_nsec)
        return;
    file = fopen(path, "r");
    if (!file)
        return;
    for (line_count = 0; line_count < MAX_LINES && fgets(lines[line_count], LINE, file); line_count++)
        lines[line_count][strcspn(lines[line_count], "\n")] = '\0';
    fclose(file);
    seen = now;
}

/* The nth line of a kind; NULL when there are fewer. */
static const char *nth(const char *kind, int n)
{
    size_t length = strlen(kind);
    for (int i = 0; i < line_count; i++)
        if (!strncmp(lines[i], kind, length) && lines[i][length] == ' ' && n-- == 0)
            return lines[i];
    return NULL;
}

/* The value of `key` in a line, its length in `length`; NULL when it is not there. */
static const char *raw(const char *line, const char *key, size_t *length)
{
    size_t size = strlen(key);
    for (const char *at = line; at && (at = strchr(at, ' ')); ) {
        at++;
        if (!strncmp(at, key, size) && at[size] == '=') {
            *length = strcspn(at + size + 1, " ");
            return at + size + 1;
        }
    }
    return NULL;
}

static int has(const char *line, const char *key)
{
    size_t length;
    return raw(line, key, &length) != NULL;
}

static u64 number(const char *line, const char *key, u64 otherwise)
{
    size_t length;
    const char *value = raw(line, key, &length);
    return value ? strtoull(value, NULL, 10) : otherwise;
}

static int text(const char *line, const char *key, char *into, unsigned size)
{
    size_t length = 0;
    const char *value = raw(line, key, &length);
    if (!value)
        return NOT_SUPPORTED;
    if (length + 1 > size)
        return TOO_SMALL;
    memcpy(into, value, length);
    into[length] = '\0';
    for (char *c = into; *c; c++)
        if (*c == '_')
            *c = ' ';
    return OK;
}

static int is_raw(const char *line, const char *key, const char *value)
{
    size_t length;
    const char *found = raw(line, key, &length);
    return found && length == strlen(value) && !strncmp(found, value, length);
}

static int is(const char *line, const char *key, const char *value)
{
    char found[128];
    return text(line, key, found, sizeof found) == OK && !strcmp(found, value);
}

/* ---- who is asked, and does it answer ---- */

static u64 generation(void) { return number(nth("driver", 0), "generation", 1); }
static int gpu_of(handle h) { return (int)((h >> 8) & 0xFFF) - 1; }
static int slice_of(handle h) { return (int)(h & 0xFF) - 1; }
static handle make(int gpu, int slice) { return (handle)(generation() << 20 | (u64)(gpu + 1) << 8 | (u64)(slice + 1)); }

/* The nth slice of a GPU. */
static const char *slice_line(int gpu, int n)
{
    const char *line;
    for (int i = 0; (line = nth("slice", i)); i++)
        if ((int)number(line, "gpu", 0) == gpu && n-- == 0)
            return line;
    return NULL;
}

/* Whether a line of the kind names this call, on this GPU or on all. */
static int named(const char *kind, const char *call, int gpu)
{
    const char *line;
    for (int i = 0; (line = nth(kind, i)); i++)
        if (is_raw(line, "call", call) && (!has(line, "gpu") || (int)number(line, "gpu", 0) == gpu))
            return 1;
    return 0;
}

static void hang_or_crash(const char *call, int gpu)
{
    if (named("crashes", call, gpu))
        abort();
    while (named("hangs", call, gpu))
        sleep(3600);
}

static int told_to_fail(const char *call, int gpu)
{
    const char *line;
    char name[128];
    size_t length;
    hang_or_crash(call, gpu);
    for (int i = 0; (line = nth("fails", i)); i++) {
        const char *value = raw(line, "call", &length);
        if (!value || length >= sizeof name)
            continue;
        memcpy(name, value, length);
        name[length] = '\0';
        if (!strcmp(name, call) && (!has(line, "gpu") || (int)number(line, "gpu", 0) == gpu))
            return (int)number(line, "code", NOT_SUPPORTED);
    }
    return OK;
}

static int driver_state(void)
{
    reread();
    if (!nth("driver", 0) || is(nth("driver", 0), "state", "gone"))
        return NO_DRIVER;
    return is(nth("driver", 0), "state", "mismatch") ? MISMATCH : OK;
}

static int enter(const char *call, int gpu)
{
    if (driver_state() != OK || initialized != (long)generation())
        return UNINITIALIZED;
    return told_to_fail(call, gpu);
}

/* Sets `line` to the GPU, or to its slice. */
static int device(const char *call, handle h, const char **line)
{
    int rc = enter(call, gpu_of(h));
    if (rc == UNINITIALIZED)
        return rc;
    if ((u64)h >> 20 != generation() || !(*line = nth("gpu", gpu_of(h))))
        return INVALID;
    if (number(*line, "lost", 0)) {
        were_lost |= 1ULL << gpu_of(h);
        return LOST;
    }
    if (were_lost & 1ULL << gpu_of(h)) /* it was reset: nobody waits for its events */
        watched &= ~(1ULL << gpu_of(h));
    were_lost &= ~(1ULL << gpu_of(h));
    if (slice_of(h) >= 0 && !(*line = slice_line(gpu_of(h), slice_of(h))))
        return INVALID;
    return rc;
}

#define ASK(h) const char *gpu; int rc = device(__func__, h, &gpu); if (rc != OK) return rc
#define SAY(h, key, into, scale) do { ASK(h); if (!has(gpu, key)) return NOT_SUPPORTED; \
        *(into) = (__typeof__(*(into)))(number(gpu, key, 0) * (scale)); return OK; } while (0)

/* ---- the library ---- */

API int nvmlInitWithFlags(unsigned flags)
{
    int state = driver_state();
    (void)flags;
    if (state != OK)
        return state;
    if (told_to_fail(__func__, -1) != OK)
        return told_to_fail(__func__, -1);
    initialized = (long)generation();
    return OK;
}
API int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
API int nvmlShutdown(void) { int rc = enter(__func__, -1); initialized = 0; return rc; }
API const char *nvmlErrorString(int code) { (void)code; return "error of the stand-in library"; }

API int nvmlSystemGetDriverVersion(char *into, unsigned size)
{
    int rc = enter(__func__, -1);
    return rc != OK ? rc : text(nth("driver", 0), "version", into, size);
}
API int nvmlSystemGetCudaDriverVersion_v2(int *into)
{
    int rc = enter(__func__, -1);
    if (rc == OK)
        *into = (int)number(nth("driver", 0), "cuda", 12090);
    return rc;
}

API int nvmlDeviceGetCount_v2(unsigned *into)
{
    int rc = enter(__func__, -1);
    for (*into = 0; nth("gpu", (int)*into); )
        ++*into;
    return rc;
}
API int nvmlDeviceGetHandleByIndex_v2(unsigned index, handle *into)
{
    int rc = enter(__func__, (int)index);
    if (rc != OK)
        return rc;
    if (!nth("gpu", (int)index))
        return INVALID;
    *into = make((int)index, -1);
    return number(nth("gpu", (int)index), "lost", 0) > 1 ? LOST : OK; /* lost=2: not even a handle */
}

API int nvmlDeviceGetUUID(handle h, char *into, unsigned size) { ASK(h); return text(gpu, "uuid", into, size); }
API int nvmlDeviceGetName(handle h, char *into, unsigned size)
{
    char profile[64];
    ASK(h);
    rc = text(nth("gpu", gpu_of(h)), "model", into, size);
    if (rc != OK || slice_of(h) < 0)
        return rc;
    rc = text(gpu, "profile", profile, sizeof profile);
    snprintf(into + strlen(into), size - strlen(into), " MIG %s", profile);
    return rc;
}
API int nvmlDeviceGetMemoryInfo(handle h, memory_v1 *into)
{
    ASK(h);
    if (!has(gpu, "memory"))
        return NOT_SUPPORTED;
    into->total = number(gpu, "memory", 0) * MIB;
    into->used = number(gpu, "used", 0) * MIB;
    into->free = into->total - into->used - number(gpu, "reserved", 0) * MIB;
    return OK;
}
API int nvmlDeviceGetUtilizationRates(handle h, utilization *into)
{
    ASK(h);
    if (slice_of(h) >= 0 || !has(gpu, "utilization"))
        return NOT_SUPPORTED;
    into->gpu = (unsigned)number(gpu, "utilization", 0);
    into->memory = 0;
    return OK;
}
API int nvmlDeviceGetCudaComputeCapability(handle h, int *major, int *minor)
{
    size_t length;
    ASK(h);
    const char *value = raw(gpu, "capability", &length);
    return value && sscanf(value, "%d.%d", major, minor) == 2 ? OK : NOT_SUPPORTED;
}
API int nvmlDeviceGetPciInfo_v3(handle h, pci *into)
{
    ASK(h);
    memset(into, 0, sizeof *into);
    return text(gpu, "bus", into->bus_id, sizeof into->bus_id);
}
API int nvmlDeviceGetMemoryAffinity(handle h, unsigned size, unsigned long *into, unsigned scope)
{
    ASK(h);
    (void)scope;
    if (!has(gpu, "numa"))
        return NOT_SUPPORTED;
    u64 numa = number(gpu, "numa", 0);
    memset(into, 0, size * sizeof *into);
    if (numa / 64 >= size)
        return TOO_SMALL;
    into[numa / 64] = 1UL << (numa % 64);
    return OK;
}
API int nvmlDeviceGetPowerUsage(handle h, unsigned *into) { SAY(h, "power", into, 1000); }
API int nvmlDeviceGetEnforcedPowerLimit(handle h, unsigned *into) { SAY(h, "limit", into, 1000); }
API int nvmlDeviceGetTemperature(handle h, unsigned sensor, unsigned *into) { (void)sensor; SAY(h, "temperature", into, 1); }
API int nvmlDeviceGetTemperatureThreshold(handle h, unsigned which, unsigned *into)
{
    if (which != 1)
        return NOT_SUPPORTED;
    SAY(h, "slowdown", into, 1);
}
API int nvmlDeviceGetTotalEccErrors(handle h, unsigned kind, unsigned counter, u64 *into)
{
    if (kind != 1 || counter != 0) /* uncorrected, volatile */
        return INVALID;
    SAY(h, "ecc", into, 1);
}
API int nvmlDeviceGetRemappedRows(handle h, unsigned *fixed, unsigned *lost, unsigned *pending, unsigned *failed)
{
    ASK(h);
    if (!has(gpu, "remap_pending") && !has(gpu, "remap_failed"))
        return NOT_SUPPORTED;
    *fixed = *lost = 0;
    *pending = (unsigned)number(gpu, "remap_pending", 0);
    *failed = (unsigned)number(gpu, "remap_failed", 0);
    return OK;
}

API int nvmlDeviceGetTopologyCommonAncestor(handle h, handle other, unsigned *into)
{
    ASK(h);
    *into = number(gpu, "numa", 0) == number(nth("gpu", gpu_of(other)), "numa", 0) ? 30 : 50;
    return OK;
}
API int nvmlDeviceGetP2PStatus(handle h, handle other, unsigned what, unsigned *into)
{
    char peers[128], *end;
    ASK(h);
    *into = 5; /* not supported */
    if (what != 2 || text(gpu, "nvlink", peers, sizeof peers) != OK)
        return OK;
    for (char *at = peers; *at; at = *end ? end + 1 : end)
        if (strtol(at, &end, 10) == gpu_of(other))
            *into = 0;
    return OK;
}

API int nvmlDeviceGetMigMode(handle h, unsigned *now, unsigned *pending) { *pending = 0; SAY(h, "mig", now, 1); }
API int nvmlDeviceGetMaxMigDeviceCount(handle h, unsigned *into) { ASK(h); *into = 7; return OK; }
API int nvmlDeviceGetMigDeviceHandleByIndex(handle h, unsigned index, handle *into)
{
    ASK(h);
    *into = make(gpu_of(h), (int)index);
    return slice_line(gpu_of(h), (int)index) ? OK : NOT_FOUND;
}
API int nvmlDeviceGetGpuInstanceId(handle h, unsigned *into) { SAY(h, "gi", into, 1); }
API int nvmlDeviceGetComputeInstanceId(handle h, unsigned *into) { SAY(h, "ci", into, 1); }
API int nvmlDeviceGetAttributes_v2(handle h, attributes *into)
{
    ASK(h);
    memset(into, 0, sizeof *into);
    into->gpu_slices = into->compute_slices = 1;
    into->memory_mb = number(gpu, "memory", 0);
    return OK;
}

static int processes(handle h, char list, unsigned *count, process *into)
{
    const char *line, *lists;
    size_t length;
    unsigned room = *count, found = 0;
    for (int i = 0; (line = nth("process", i)); i++) {
        if ((int)number(line, "gpu", 0) != gpu_of(h))
            continue;
        lists = raw(line, "lists", &length);
        if (lists ? !memchr(lists, list, length) : list != 'C')
            continue;
        if (into && found < room)
            into[found] = (process){(unsigned)number(line, "pid", 0), has(line, "memory") ? number(line, "memory", 0) * MIB : NOT_AVAILABLE,
                                    (unsigned)number(line, "gi", NONE), (unsigned)number(line, "gi", NONE) == NONE ? NONE : 0};
        found++;
    }
    *count = found;
    return found > room ? TOO_SMALL : OK;
}
API int nvmlDeviceGetComputeRunningProcesses_v3(handle h, unsigned *count, process *into)
{
    ASK(h);
    return processes(h, 'C', count, into);
}
API int nvmlDeviceGetGraphicsRunningProcesses_v3(handle h, unsigned *count, process *into)
{
    ASK(h);
    return processes(h, 'G', count, into);
}
API int nvmlDeviceGetMPSComputeRunningProcesses_v3(handle h, unsigned *count, process *into)
{
    ASK(h);
    return processes(h, 'M', count, into);
}

/* ---- events: one set; once it has met a lost GPU it stays dead ---- */

API int nvmlEventSetCreate(handle *set) { *set = 1; watched = 0; set_is_dead = 0; return enter(__func__, -1); }
API int nvmlEventSetFree(handle set) { (void)set; return enter(__func__, -1); }
API int nvmlDeviceRegisterEvents(handle h, u64 types, handle set)
{
    ASK(h);
    (void)set;
    watched |= 1ULL << gpu_of(h);
    return types == 8 ? OK : NOT_SUPPORTED;
}
API int nvmlEventSetWait_v2(handle set, event *into, unsigned timeout_ms)
{
    const char *line;
    int rc = enter(__func__, -1);
    (void)set;
    (void)timeout_ms;
    set_is_dead |= rc == LOST;
    if (rc != OK || set_is_dead)
        return rc != OK ? rc : LOST;
    for (int i = 0; (line = nth("xid", i)); i++) {
        if ((long)number(line, "serial", 0) <= delivered)
            continue;
        delivered = (long)number(line, "serial", 0);
        if (!has(line, "stray") && !(watched & 1ULL << number(line, "gpu", 0)))
            continue;
        *into = (event){make((int)number(line, "gpu", 0), -1), 8, number(line, "code", 0), (unsigned)number(line, "gi", NONE), NONE};
        return OK;
    }
    return TIMEOUT;
}
