// The inner loops, once for every instruction set. Which one runs is chosen at run time (dispatch.cpp).
//
// The translation units kernels_*.cpp are compiled with the flags of their instruction set and must not define or
// instantiate anything with external linkage but their table: a function of the standard library instantiated there
// could be the copy that the linker keeps for everyone, and would then run on processors without these instructions.
#pragma once

#include <cstddef>
#include <cstdint>

namespace qo {

// How the integers of a column lie: one array, or (u48) the low 32 bits in one and the high 16 in another.
enum class Kind : std::uint8_t { none, u8, u16, u32, u48, u64 };
constexpr int kKinds = 6;

struct Column {
    const void* low;
    const std::uint16_t* high;
};

// What filter writes in excess of the entries it finds: whole vectors.
constexpr std::size_t kSlack = 64;

// The entries of [begin, end) whose distance to `query` is <= limit, in order: their positions and distances.
// Room for (end - begin) + kSlack of each. Returns how many.
using Filter = std::size_t (*)(Column column, std::size_t begin, std::size_t end, std::uint64_t query, int limit,
                               std::uint32_t* positions, std::uint8_t* distances);

// Walks whole blocks of [begin, end) with four queries at once. Returns the beginning of the first block with an entry
// at a distance <= limits[i] of query i, and sets bit i of hits for every such i; or the end of the last whole block,
// with hits == 0. The few entries beyond the last whole block are not looked at.
using Probe = std::size_t (*)(Column column, std::size_t begin, std::size_t end, const std::uint64_t* queries,
                              const int* limits, unsigned* hits);
constexpr int kProbeQueries = 4;

// Sums over the bits in which a code differs from the query are looked up, `group` bits of the code at a time: a table of
// 2^group sums for the lowest `group` bits of a word of 32, then for the next ones; first for the low 32 bits of a code,
// then for the high ones. The query is in the tables already.
constexpr std::size_t tables(int bits, int group) { return static_cast<std::size_t>((bits + group - 1) / group); }
constexpr std::size_t kMaxSums = 2048;  // of 8 tables of bytes, which take more than those of fewer bits do

// The entries of [begin, end) whose sum is <= limit, in order: their positions and sums. Room as for Filter.
using Weigh = std::size_t (*)(Column column, std::size_t begin, std::size_t end, const std::uint32_t* sums,
                              std::uint32_t limit, std::uint32_t* positions, std::uint32_t* found);

// The squared L2 distances between the margins of these rows (see margins.h) and the query's, of which there are as many,
// the padding included.
using Squares = void (*)(const std::int8_t* margins, std::size_t stride, const std::uint32_t* rows, std::size_t count,
                         const std::int8_t* query, std::uint32_t* squares);
constexpr std::size_t kMarginStep = 16;  // what the stride is a multiple of

struct Kernels {
    const char* name;
    Filter filter[kKinds];
    Probe probe[kKinds];
    std::size_t block[kKinds];  // entries of one block of probe
    Weigh weigh[kKinds];
    int group;  // bits of one look-up of weigh
    Squares squares;
};

extern const Kernels kPlainKernels;
#ifdef QO_AVX2
extern const Kernels kAvx2Kernels;
#endif
#ifdef QO_AVX512
extern const Kernels kAvx512Kernels;
#endif

}  // namespace qo
