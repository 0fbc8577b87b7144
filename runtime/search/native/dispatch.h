#pragma once

#include <string>
#include <vector>

#include "kernels.h"

namespace qo {

// The instruction paths that this build has and this processor can run, fastest first; the last is "plain".
std::vector<const Kernels*> available_kernels();

// The path of that name (throws std::invalid_argument where it can't run here), or the fastest for "".
const Kernels& find_kernels(const std::string& name);

}  // namespace qo
