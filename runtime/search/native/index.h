// The structures of an exact search by Hamming distance.
//
// Codes are integers of `bits` bits, rows 0 .. n - 1; all answers are in (distance, row) order.
//
//   scan         the codes in the order of their rows
//   table        one chunk: the unique codes grouped by their top bits (at most 16), enumerated by distance
//   multi-index  several chunks: a code within r of the query is within r / chunks of it in one of them (Norouzi,
//                Punjani, Fleet: "Fast search in Hamming space with multi-index hashing", CVPR 2012)
//
// Table and multi-index hold every distinct code once, with the rows that have it, so that duplicates cost nothing.
// A chunk stores only the bits that its table does not already say. Unique codes are numbered in ascending order,
// which is the order of chunk 0: the number of a code found through another chunk is looked up there, and only for the
// few codes that get into the results.
#pragma once

#include <cstdint>
#include <vector>

#include "kernels.h"
#include "memory.h"

namespace qo {

enum class Structure : std::uint8_t { scan, table, multi };

constexpr int kMaxBits = 64;
constexpr int kMaxChunkBits = 16;
constexpr int kExpectedShells = 5;
constexpr double kShare = 0.2, kLeastShare = 0.02;
constexpr std::size_t kMaxRows = 0xffffffff;  // rows are numbered with 32 bits, and one number stands for none

// Where `words` no longer fit a core's share of the cache, they are left out, and a scan of the unique codes reads
// chunk 0 instead.
constexpr std::size_t kMaxWords = std::size_t{1} << 22;

// Chunk: bits shift .. shift + width - 1 of a code. starts [2^width + 1] are the places of each value's codes in rest,
// the bits outside the chunk, moved together.
struct Chunk {
    int shift = 0, width = 0;
    Array<std::uint32_t> starts;
    Integers rest;
    double expected[kExpectedShells] = {};  // codes that the shell at distance s of a query holds, on average

    std::uint32_t value(std::uint64_t code) const {
        return static_cast<std::uint32_t>(code >> shift) & ((1u << width) - 1);
    }
    std::uint64_t rest_of(std::uint64_t code) const { return (code & low()) | (above(code) << shift); }
    std::uint64_t join(std::uint32_t value, std::uint64_t other) const {
        const std::uint64_t high = other >> shift;
        return (other & low()) | static_cast<std::uint64_t>(value) << shift |
               (shift + width < 64 ? high << (shift + width) : 0);
    }

  private:
    std::uint64_t low() const { return (std::uint64_t{1} << shift) - 1; }
    std::uint64_t above(std::uint64_t code) const { return shift + width < 64 ? code >> (shift + width) : 0; }
};

// The n packed codes of a caller: `width` bytes each, little-endian.
struct Packed {
    const std::uint8_t* data;
    std::size_t n;
    int width;

    std::uint64_t operator[](std::size_t row) const {
        const std::uint8_t* bytes = data + row * static_cast<std::size_t>(width);
        std::uint64_t code = 0;
        for (int i = 0; i < width; ++i) code |= static_cast<std::uint64_t>(bytes[i]) << (8 * i);
        return code;
    }
};

struct Costs {
    double scan = 0;    // ns: all unique codes
    double bucket = 0;  // ns: one look-up in a chunk
    double code = 0;    // ns: one code looked at
    double share = kShare;  // of the scan's cost that a query may spend on look-ups before it scans

    double budget() const { return share * scan; }
};

struct Index {
    Structure structure = Structure::scan;
    int bits = 0;
    std::size_t n = 0;
    std::size_t unique = 0;            // == n for scan
    Integers words;                    // the unique codes (the codes in the order of rows, for scan); may be left out
    std::vector<Chunk> chunks;         // none for scan
    Array<std::uint32_t> postings;     // the rows of each unique code, ascending; none for scan
    Array<std::uint32_t> first;        // [unique + 1] in postings; none where all codes are unique
    Costs costs;
    int usual = kMaxBits;              // the distance within which a code's nearest few rows mostly lie

    std::size_t bytes() const;
    std::uint64_t code(std::size_t number) const;                          // of a unique code, from chunk 0 or words
    std::uint32_t find(std::uint64_t code) const;                          // number of a code that is there
    void find(const std::uint64_t* codes, std::size_t count, std::uint32_t* numbers) const;
    std::uint32_t begin(std::uint32_t number) const { return first.size() ? first[number] : number; }
    std::uint32_t end(std::uint32_t number) const { return first.size() ? first[number + 1] : number + 1; }
};

// The structure that `build` takes on its own: a scan for few codes; a table up to 24 bits; a multi-index above.
Structure choose(int bits, std::size_t n);

Index build(Packed codes, int bits, Structure structure, unsigned threads);

// The chunks of a table or multi-index, still empty.
std::vector<Chunk> lay_out(Structure structure, int bits);

// The code of the row postings[i].
std::uint64_t code_of_posting(const Index& index, std::size_t i);

// Fills in what the shells of a query hold, on average over some of the codes.
void expect(Index& index);

// Calls visit(number, code) for every unique code of a table or multi-index, ascending.
template <class Visit>
void each_unique(const Index& index, Visit visit) {
    const Chunk& chunk = index.chunks[0];
    const std::size_t buckets = std::size_t{1} << chunk.width;
    for (std::size_t b = 0; b < buckets; ++b) {
        for (std::size_t i = chunk.starts[b]; i < chunk.starts[b + 1]; ++i) {
            visit(i, chunk.join(static_cast<std::uint32_t>(b), chunk.rest.get(i)));
        }
    }
}

// Measures what scans and look-ups cost on this machine, with a few of the index's own codes as queries.
void calibrate(Index& index, const Kernels& kernels);

// All masks of 16 bits by the number of their set bits, ascending within each: masks of fewer bits come first.
struct Masks {
    std::vector<std::uint16_t> all[kMaxChunkBits + 1];
};
const Masks& masks();

}  // namespace qo
