#include "dispatch.h"

#include <stdexcept>

namespace qo {

std::vector<const Kernels*> available_kernels() {
    std::vector<const Kernels*> found;
    // These also ask whether the operating system saves the wide registers.
#ifdef QO_AVX512
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
        __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
        __builtin_cpu_supports("avx512vpopcntdq") && __builtin_cpu_supports("avx512bitalg") &&
        __builtin_cpu_supports("avx512vbmi2") && __builtin_cpu_supports("popcnt")) {
        found.push_back(&kAvx512Kernels);
    }
#endif
#ifdef QO_AVX2
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("popcnt")) found.push_back(&kAvx2Kernels);
#endif
    found.push_back(&kPlainKernels);
    return found;
}

const Kernels& find_kernels(const std::string& name) {
    std::string names;
    for (const Kernels* kernels : available_kernels()) {
        if (name.empty() || name == kernels->name) return *kernels;
        names += (names.empty() ? "" : ", ") + std::string(kernels->name);
    }
    throw std::invalid_argument("'" + name + "' is no instruction path of this processor and build; there are: " + names);
}

}  // namespace qo
