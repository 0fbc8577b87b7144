// An index as named arrays of bytes, for a file, and back without a copy.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "index.h"

namespace qo {

struct Section {
    std::string name;
    const void* data;
    std::size_t bytes;
};

std::vector<Section> sections(const Index& index);

// Finds a section by name: its memory, aligned to 8 bytes, which outlives the index; {"", nullptr, 0} where there is none.
using Find = std::function<Section(const std::string& name)>;

// An index over sections that another process may have written. Throws std::invalid_argument where they don't fit
// together; whatever they hold, searches stay within them.
Index restore(Structure structure, int bits, std::size_t n, std::size_t unique, const Find& find);

// Packs the codes of all rows, in order, into to [n, width] bytes.
void codes_of_all(const Index& index, int width, std::uint8_t* to);

// The unique code of every row; for a scan, the row itself (an empty array).
Array<std::uint32_t> numbers_of_rows(const Index& index);

}  // namespace qo
