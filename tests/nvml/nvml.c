/* A libnvidia-ml.so.1 for tests: the calls that the inventory makes, answered from a text file.
 *
 * The file is named by TRIMTAB_FAKE_NVML and read again at every call, so that a test changes the machine by writing it.
 * One line a GPU or a fact, fields separated by blanks:
 *
 *   driver gone                              every call fails with DRIVER_NOT_LOADED
 *   gpu 0 uuid=GPU-a name=A100 memory=40960 capability=8.0 temperature=40 ecc=0 lost=0 bus=1
 *   process 0 pid=4711 memory=1024           (MiB) in use by a process on GPU 0
 *   link 0 1                                 an NVLink from GPU 0 to GPU 1;  link 0 switch: to an NVSwitch
 *   slice 0 uuid=MIG-a profile=1g.10gb memory=9856
 *   unsupported nvmlDeviceGetTotalEccErrors  that call answers NOT_SUPPORTED
 *
 * Names in "name=" have underscores for blanks. Only what nvidia-ml-py calls is here; its structures are laid out as there.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, INSUFFICIENT_SIZE = 7,
       DRIVER_NOT_LOADED = 9, GPU_IS_LOST = 15 };
enum { MOST = 16, LINKS = 18 };

typedef struct { char uuid[80], name[80]; int memory, major, minor, temperature, ecc, lost, bus, there; } gpu_t;
typedef struct { int gpu; unsigned pid; int memory; } process_t;
typedef struct { int from, to; } link_t; /* to -1: a switch */
typedef struct { int gpu; char uuid[80], profile[32]; int memory; } slice_t;

static gpu_t gpus[MOST];
static process_t processes[64];
static link_t links[128];
static slice_t slices[64];
static char unsupported[1024];
static int gpu_count, process_count, link_count, slice_count, gone, ready;

/* A handle is a pointer into one of these, so that GPUs and slices can be told apart. */
static char gpu_handles[MOST], slice_handles[64];

static int number(const char *line, const char *key, int otherwise) {
    const char *found = strstr(line, key);
    return found ? atoi(found + strlen(key)) : otherwise;
}

static void word(const char *line, const char *key, char *out, size_t size) {
    const char *found = strstr(line, key);
    size_t n = 0;
    if (found)
        for (found += strlen(key); *found && *found != ' ' && *found != '\n' && n + 1 < size; found++)
            out[n++] = *found == '_' ? ' ' : *found;
    out[n] = 0;
}

static void read_gpu(const char *line) {
    int index = atoi(line + 4);
    if (index < 0 || index >= MOST) return;
    gpu_t *gpu = &gpus[index];
    word(line, "uuid=", gpu->uuid, sizeof gpu->uuid);
    word(line, "name=", gpu->name, sizeof gpu->name);
    gpu->memory = number(line, "memory=", 0);
    const char *capability = strstr(line, "capability=");
    if (capability) sscanf(capability, "capability=%d.%d", &gpu->major, &gpu->minor);
    gpu->temperature = number(line, "temperature=", 30);
    gpu->ecc = number(line, "ecc=", 0);
    gpu->lost = number(line, "lost=", 0);
    gpu->bus = number(line, "bus=", index + 1);
    gpu->there = 1;
    if (index >= gpu_count) gpu_count = index + 1;
}

static void read_file(void) {
    const char *path = getenv("TRIMTAB_FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[512], to[32];
    memset(gpus, 0, sizeof gpus);
    gpu_count = process_count = link_count = slice_count = gone = 0;
    unsupported[0] = 0;
    if (!file) { gone = 1; return; }
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, "driver gone", 11)) gone = 1;
        else if (!strncmp(line, "gpu ", 4)) read_gpu(line);
        else if (!strncmp(line, "process ", 8) && process_count < 64) {
            process_t *one = &processes[process_count++];
            one->gpu = atoi(line + 8);
            one->pid = (unsigned)number(line, "pid=", 0);
            one->memory = number(line, "memory=", 0);
        } else if (!strncmp(line, "link ", 5) && link_count < 128) {
            link_t *one = &links[link_count];
            if (sscanf(line, "link %d %31s", &one->from, to) == 2) {
                one->to = strcmp(to, "switch") ? atoi(to) : -1;
                link_count++;
            }
        } else if (!strncmp(line, "slice ", 6) && slice_count < 64) {
            slice_t *one = &slices[slice_count++];
            one->gpu = atoi(line + 6);
            word(line, "uuid=", one->uuid, sizeof one->uuid);
            word(line, "profile=", one->profile, sizeof one->profile);
            one->memory = number(line, "memory=", 0);
        } else if (!strncmp(line, "unsupported ", 12))
            strncat(unsupported, line + 12, sizeof unsupported - strlen(unsupported) - 1);
    }
    fclose(file);
}

/* What every call begins with: the file, the driver, the call itself, the device. */
static int enter(const char *call) {
    read_file();
    if (gone) { ready = 0; return DRIVER_NOT_LOADED; }
    if (!ready) return UNINITIALIZED;
    return strstr(unsupported, call) ? NOT_SUPPORTED : OK;
}

static int on_gpu(const char *call, const void *handle, int *index) {
    int status = enter(call);
    const char *at = handle;
    if (status) return status;
    if (at >= slice_handles && at < slice_handles + 64) { *index = 100 + (int)(at - slice_handles); return OK; }
    if (at < gpu_handles || at >= gpu_handles + MOST) return INVALID_ARGUMENT;
    *index = (int)(at - gpu_handles);
    if (!gpus[*index].there || gpus[*index].lost) return GPU_IS_LOST;
    return OK;
}

#define ON_GPU(call) int i = 0, status = on_gpu(call, device, &i); if (status) return status
#define GPU_ONLY if (i >= 100) return NOT_SUPPORTED

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    read_file();
    if (gone) return DRIVER_NOT_LOADED;
    ready = 1;
    return OK;
}
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { ready = 0; return OK; }

const char *nvmlErrorString(int status) {
    switch (status) {
    case UNINITIALIZED: return "Uninitialized";
    case NOT_SUPPORTED: return "Not Supported";
    case DRIVER_NOT_LOADED: return "Driver Not Loaded";
    case GPU_IS_LOST: return "GPU is lost";
    case NOT_FOUND: return "Not Found";
    default: return "Error";
    }
}

int nvmlDeviceGetCount_v2(unsigned *count) {
    int status = enter("nvmlDeviceGetCount");
    if (!status) *count = (unsigned)gpu_count;
    return status;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, void **device) {
    int status = enter("nvmlDeviceGetHandleByIndex");
    if (status) return status;
    if (index >= (unsigned)gpu_count) return INVALID_ARGUMENT;
    if (!gpus[index].there || gpus[index].lost) return GPU_IS_LOST;
    *device = &gpu_handles[index];
    return OK;
}

int nvmlDeviceGetUUID(void *device, char *out, unsigned size) {
    ON_GPU("nvmlDeviceGetUUID");
    snprintf(out, size, "%s", i >= 100 ? slices[i - 100].uuid : gpus[i].uuid);
    return OK;
}

int nvmlDeviceGetName(void *device, char *out, unsigned size) {
    ON_GPU("nvmlDeviceGetName");
    if (i >= 100) snprintf(out, size, "%s MIG %s", gpus[slices[i - 100].gpu].name, slices[i - 100].profile);
    else snprintf(out, size, "%s", gpus[i].name);
    return OK;
}

typedef struct { unsigned long long total, free, used; } memory_t;

int nvmlDeviceGetMemoryInfo(void *device, memory_t *out) {
    ON_GPU("nvmlDeviceGetMemoryInfo");
    unsigned long long mib = 1ull << 20, used = 0;
    if (i < 100)
        for (int p = 0; p < process_count; p++)
            if (processes[p].gpu == i) used += (unsigned long long)processes[p].memory * mib;
    out->total = (unsigned long long)(i >= 100 ? slices[i - 100].memory : gpus[i].memory) * mib;
    out->used = used;
    out->free = out->total - used;
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    ON_GPU("nvmlDeviceGetCudaComputeCapability");
    GPU_ONLY;
    *major = gpus[i].major;
    *minor = gpus[i].minor;
    return OK;
}

typedef struct { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; } pci_t;

static void fill_pci(pci_t *out, int bus) {
    memset(out, 0, sizeof *out);
    snprintf(out->bus_id, sizeof out->bus_id, "00000000:%02X:00.0", (unsigned)bus & 0xffu);
    out->bus = (unsigned)bus;
}

int nvmlDeviceGetPciInfo_v3(void *device, pci_t *out) {
    ON_GPU("nvmlDeviceGetPciInfo");
    GPU_ONLY;
    fill_pci(out, gpus[i].bus);
    return OK;
}

typedef struct { unsigned pid; unsigned long long memory; unsigned instance, compute_instance; } used_t;

int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, used_t *out) {
    ON_GPU("nvmlDeviceGetComputeRunningProcesses");
    GPU_ONLY;
    unsigned found = 0, room = *count;
    for (int p = 0; p < process_count; p++)
        if (processes[p].gpu == i) {
            if (out && found < room) {
                out[found].pid = processes[p].pid;
                out[found].memory = (unsigned long long)processes[p].memory << 20;
                out[found].instance = out[found].compute_instance = 0xffffffffu;
            }
            found++;
        }
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : OK;
}

int nvmlDeviceGetTotalEccErrors(void *device, int type, int counter, unsigned long long *out) {
    ON_GPU("nvmlDeviceGetTotalEccErrors");
    GPU_ONLY;
    (void)counter;
    *out = type == 1 ? (unsigned long long)gpus[i].ecc : 0;
    return OK;
}

int nvmlDeviceGetTemperature(void *device, int sensor, unsigned *out) {
    ON_GPU("nvmlDeviceGetTemperature");
    GPU_ONLY;
    (void)sensor;
    *out = (unsigned)gpus[i].temperature;
    return OK;
}

static int slices_of(int gpu) {
    int found = 0;
    for (int s = 0; s < slice_count; s++) found += slices[s].gpu == gpu;
    return found;
}

int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *pending) {
    ON_GPU("nvmlDeviceGetMigMode");
    GPU_ONLY;
    *now = *pending = slices_of(i) > 0;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(void *device, unsigned *out) {
    ON_GPU("nvmlDeviceGetMaxMigDeviceCount");
    GPU_ONLY;
    *out = 7;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(void *device, unsigned index, void **out) {
    ON_GPU("nvmlDeviceGetMigDeviceHandleByIndex");
    GPU_ONLY;
    for (int s = 0; s < slice_count; s++)
        if (slices[s].gpu == i && index-- == 0) {
            *out = &slice_handles[s];
            return OK;
        }
    return NOT_FOUND;
}

static int nth_link(int gpu, unsigned n, link_t **out) {
    for (int l = 0; l < link_count; l++)
        if (links[l].from == gpu && n-- == 0) {
            *out = &links[l];
            return OK;
        }
    return INVALID_ARGUMENT;
}

int nvmlDeviceGetNvLinkState(void *device, unsigned link, unsigned *active) {
    ON_GPU("nvmlDeviceGetNvLinkState");
    GPU_ONLY;
    link_t *one;
    if (link >= LINKS || nth_link(i, link, &one)) return INVALID_ARGUMENT;
    *active = 1;
    return OK;
}

int nvmlDeviceGetNvLinkRemotePciInfo_v2(void *device, unsigned link, pci_t *out) {
    ON_GPU("nvmlDeviceGetNvLinkRemotePciInfo");
    GPU_ONLY;
    link_t *one;
    if (nth_link(i, link, &one)) return INVALID_ARGUMENT;
    fill_pci(out, one->to < 0 ? 0xc0 : gpus[one->to].bus);
    return OK;
}

int nvmlDeviceGetNvLinkRemoteDeviceType(void *device, unsigned link, unsigned *out) {
    ON_GPU("nvmlDeviceGetNvLinkRemoteDeviceType");
    GPU_ONLY;
    link_t *one;
    if (nth_link(i, link, &one)) return INVALID_ARGUMENT;
    *out = one->to < 0 ? 2 : 0;
    return OK;
}
