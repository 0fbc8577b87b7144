// A CUDA driver that says no more than which GPU there is: CAPABILITY (89 for 8.9), or STATUS where cuInit fails.
#include <string.h>

#ifndef STATUS
#define STATUS 0
#endif
#ifndef CAPABILITY
#define CAPABILITY 89
#endif

int cuInit(unsigned flags) { return flags ? 1 : STATUS; }
int cuDriverGetVersion(int* version) { return *version = 13020, 0; }
int cuDeviceGetCount(int* count) { return *count = 1, 0; }
int cuDeviceGet(int* device, int number) { return *device = number, 0; }
int cuDeviceGetName(char* name, int size, int device) { return strncpy(name, "NVIDIA Stand-in", (size_t)size), device; }
int cuDeviceGetAttribute(int* value, int attribute, int device) {
  if (attribute != 75 && attribute != 76) return 1;
  return *value = attribute == 75 ? CAPABILITY / 10 : CAPABILITY % 10, device;
}
int cuGetErrorString(int status, const char** text) {
  return *text = status == 100 ? "no CUDA-capable device is detected" : "something else", 0;
}
