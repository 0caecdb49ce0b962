// Which kernel table computes: detected from the processor and the operating system, never assumed.
#pragma once

#include <string>
#include <vector>

#include "kernels.hpp"

namespace tritserve {

// Those this machine can run, best first; `scalar` is always the last.
std::vector<const Kernels*> supported_kernels();

// The one called `name`, or the best if there is no name.
// Throws std::invalid_argument, naming those supported, if there is none of that name here.
const Kernels& choose_kernels(const std::string& name);

}  // namespace tritserve
