#include <algorithm>
#include <numeric>

#include "index.h"
#include "parallel.h"

namespace qo {
namespace {

// Below so many codes, one pass over them costs less than the look-ups of an index.
constexpr std::size_t kScanUpTo = 20'000;
constexpr int kTableBits = 24;

int bits_for(std::size_t count) {
    int bits = 0;
    while (count >> bits) ++bits;
    return bits;
}

// Sorts by bits [low, 64) of keys; equal ones keep their order, which is that of the bits below.
void sort_keys(std::vector<std::uint64_t>& keys, std::vector<std::uint64_t>& spare, int low, int high) {
    if (std::is_sorted(keys.begin(), keys.end())) return;
    if (keys.size() < 1024) {
        std::sort(keys.begin(), keys.end());
        return;
    }
    spare.resize(keys.size());
    for (int shift = low; shift < high; shift += 8) {
        std::size_t counts[257] = {};
        for (const std::uint64_t key : keys) ++counts[((key >> shift) & 255) + 1];
        std::partial_sum(std::begin(counts), std::end(counts), std::begin(counts));
        for (const std::uint64_t key : keys) spare[counts[(key >> shift) & 255]++] = key;
        keys.swap(spare);
    }
}

// Sorts the rows of one bucket by the bits that the bucket does not say, then by row. Returns the distinct codes.
class BucketSorter {
  public:
    BucketSorter(Packed codes, const Chunk& chunk, int bits)
        : codes_(codes), chunk_(chunk), rest_bits_(bits - chunk.width) {}

    std::uint32_t sort(std::uint32_t* rows, std::size_t n) {
        if (n == 0) return 0;
        if (rest_bits_ == 0) return 1;
        const int place_bits = bits_for(n - 1);
        if (rest_bits_ + place_bits <= 64) {
            keys_.resize(n);
            for (std::size_t i = 0; i < n; ++i) keys_[i] = chunk_.rest_of(codes_[rows[i]]) << place_bits | i;
            sort_keys(keys_, spare_, place_bits, rest_bits_ + place_bits);
            const std::uint64_t places = (std::uint64_t{1} << place_bits) - 1;
            rows_.assign(rows, rows + n);
            std::uint32_t distinct = 1;
            for (std::size_t i = 0; i < n; ++i) {
                rows[i] = rows_[keys_[i] & places];
                distinct += i > 0 && keys_[i] >> place_bits != keys_[i - 1] >> place_bits;
            }
            return distinct;
        }
        std::stable_sort(rows, rows + n, [&](std::uint32_t a, std::uint32_t b) { return codes_[a] < codes_[b]; });
        std::uint32_t distinct = 1;
        for (std::size_t i = 1; i < n; ++i) distinct += codes_[rows[i]] != codes_[rows[i - 1]];
        return distinct;
    }

  private:
    Packed codes_;
    const Chunk& chunk_;
    int rest_bits_;
    std::vector<std::uint64_t> keys_, spare_;
    std::vector<std::uint32_t> rows_;
};

constexpr std::size_t kBuckets = 512;  // a piece of work for one thread

// Rows by bucket of chunk 0, ascending within each; returns where each bucket begins [2^width + 1].
Array<std::uint32_t> group(Packed codes, const Chunk& chunk, Array<std::uint32_t>& postings) {
    const std::size_t buckets = std::size_t{1} << chunk.width;
    auto starts = Array<std::uint32_t>::zeros(buckets + 1);
    for (std::size_t row = 0; row < codes.n; ++row) ++starts[chunk.value(codes[row]) + 1];
    std::partial_sum(starts.data(), starts.data() + buckets + 1, starts.data());
    std::vector<std::uint32_t> cursor(starts.data(), starts.data() + buckets);
    for (std::size_t row = 0; row < codes.n; ++row) {
        postings[cursor[chunk.value(codes[row])]++] = static_cast<std::uint32_t>(row);
    }
    return starts;
}

void number_unique(Index& index, Packed codes, unsigned threads) {
    Chunk& chunk = index.chunks[0];
    const std::size_t buckets = std::size_t{1} << chunk.width;
    index.postings = Array<std::uint32_t>(codes.n);
    const Array<std::uint32_t> rows_from = group(codes, chunk, index.postings);
    chunk.starts = Array<std::uint32_t>::zeros(buckets + 1);
    parallel(buckets, kBuckets, threads, [&](std::size_t begin, std::size_t end) {
        BucketSorter sorter(codes, chunk, index.bits);
        for (std::size_t b = begin; b < end; ++b) {
            chunk.starts[b + 1] = sorter.sort(index.postings.data() + rows_from[b], rows_from[b + 1] - rows_from[b]);
        }
    });
    std::partial_sum(chunk.starts.data(), chunk.starts.data() + buckets + 1, chunk.starts.data());
    index.unique = chunk.starts[buckets];
    chunk.rest = Integers(index.bits - chunk.width, index.unique);
    if (index.unique < codes.n) {
        index.first = Array<std::uint32_t>(index.unique + 1);
        index.first[index.unique] = static_cast<std::uint32_t>(codes.n);
    }
    parallel(buckets, kBuckets, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t b = begin; b < end; ++b) {
            std::size_t unique = chunk.starts[b];
            std::uint64_t last = 0;
            for (std::size_t i = rows_from[b]; i < rows_from[b + 1]; ++i) {
                const std::uint64_t code = codes[index.postings[i]];
                if (i > rows_from[b] && code == last) continue;
                last = code;
                chunk.rest.set(unique, chunk.rest_of(code));
                if (index.first.size()) index.first[unique] = static_cast<std::uint32_t>(i);
                ++unique;
            }
        }
    });
}

void fill_chunk(const Index& index, Chunk& chunk) {
    const std::size_t buckets = std::size_t{1} << chunk.width;
    chunk.starts = Array<std::uint32_t>::zeros(buckets + 1);
    chunk.rest = Integers(index.bits - chunk.width, index.unique);
    each_unique(index, [&](std::size_t, std::uint64_t code) { ++chunk.starts[chunk.value(code) + 1]; });
    std::partial_sum(chunk.starts.data(), chunk.starts.data() + buckets + 1, chunk.starts.data());
    std::vector<std::uint32_t> cursor(chunk.starts.data(), chunk.starts.data() + buckets);
    each_unique(index, [&](std::size_t, std::uint64_t code) {
        chunk.rest.set(cursor[chunk.value(code)]++, chunk.rest_of(code));
    });
}

}  // namespace

const Masks& masks() {
    static const Masks made = [] {
        Masks result;
        for (std::uint32_t mask = 0; mask < 1u << kMaxChunkBits; ++mask) {
            result.all[__builtin_popcount(mask)].push_back(static_cast<std::uint16_t>(mask));
        }
        return result;
    }();
    return made;
}

Structure choose(int bits, std::size_t n) {
    if (n <= kScanUpTo) return Structure::scan;
    return bits <= kTableBits ? Structure::table : Structure::multi;
}

std::size_t Index::bytes() const {
    std::size_t total = words.bytes() + postings.bytes() + first.bytes();
    for (const Chunk& chunk : chunks) total += chunk.starts.bytes() + chunk.rest.bytes();
    return total;
}

std::uint64_t Index::code(std::size_t i) const {
    if (words.size()) return words.get(i);
    const Chunk& chunk = chunks[0];
    const std::uint32_t* starts = chunk.starts.data();
    const std::uint32_t* after = std::upper_bound(starts, starts + chunk.starts.size(), static_cast<std::uint32_t>(i));
    return chunk.join(static_cast<std::uint32_t>(after - starts - 1), chunk.rest.get(i));
}

std::uint32_t Index::find(std::uint64_t code) const {
    std::uint32_t number;
    find(&code, 1, &number);
    return number;
}

// Searches side by side, and of few codes each by several places at once: memory answers many questions in the time of
// one.
void Index::find(const std::uint64_t* codes, std::size_t count, std::uint32_t* numbers) const {
    constexpr std::size_t together = 16;
    constexpr std::size_t line = 16;  // the last codes of a search lie side by side
    const Chunk& chunk = chunks[0];
    for (std::size_t begin = 0; begin < count; begin += together) {
        const std::size_t some = std::min(together, count - begin);
        const std::size_t parts = some <= 6 ? 8 : some <= 12 ? 4 : 2;
        std::size_t low[together], size[together], widest = 0;
        std::uint64_t rest[together];
        for (std::size_t i = 0; i < some; ++i) __builtin_prefetch(&chunk.starts[chunk.value(codes[begin + i])]);
        for (std::size_t i = 0; i < some; ++i) {
            const std::uint32_t value = chunk.value(codes[begin + i]);
            rest[i] = chunk.rest_of(codes[begin + i]);
            low[i] = chunk.starts[value];
            size[i] = chunk.starts[value + 1] - low[i];
            widest = std::max(widest, size[i]);
        }
        while (widest > line) {
            for (std::size_t i = 0; i < some; ++i) {
                for (std::size_t p = 1; p < parts && size[i] > line; ++p) chunk.rest.prefetch(low[i] + size[i] * p / parts);
            }
            widest = 0;
            for (std::size_t i = 0; i < some; ++i) {
                if (size[i] <= line) continue;
                std::size_t p = 1;
                while (p < parts && chunk.rest.get(low[i] + size[i] * p / parts) <= rest[i]) ++p;
                const std::size_t end = size[i] * p / parts;
                const std::size_t from = size[i] * (p - 1) / parts;
                low[i] += from;
                size[i] = end - from;
                widest = std::max(widest, size[i]);
            }
        }
        for (std::size_t i = 0; i < some; ++i) {
            chunk.rest.prefetch(low[i]);
            if (size[i] > 0) chunk.rest.prefetch(low[i] + size[i] - 1);
        }
        for (std::size_t i = 0; i < some; ++i) {
            for (; size[i] > 1 && chunk.rest.get(low[i] + 1) <= rest[i]; --size[i]) ++low[i];
            // A code that isn't there gives some number: a damaged file must not lead outside of the arrays.
            numbers[begin + i] = static_cast<std::uint32_t>(std::min(low[i], unique - 1));
        }
    }
}

std::vector<Chunk> lay_out(Structure structure, int bits) {
    // Chunks of about 16 bits: with 1e5 to 1e8 codes their tables' buckets hold a few to a thousand of them.
    const int wanted = structure == Structure::table ? 1 : std::max(2, (bits + 8) / kMaxChunkBits);
    const int count = std::min(wanted, bits);
    std::vector<Chunk> chunks(static_cast<std::size_t>(count));
    const int covered = std::min(bits, count * kMaxChunkBits);
    int shift = bits;
    for (int i = 0; i < count; ++i) {
        Chunk& chunk = chunks[static_cast<std::size_t>(i)];
        chunk.width = covered / count + (i < covered % count);
        shift -= chunk.width;
        chunk.shift = shift;
    }
    return chunks;
}

std::uint64_t code_of_posting(const Index& index, std::size_t i) {
    if (index.first.size() == 0) return index.code(i);
    const std::uint32_t* first = index.first.data();
    const auto* after = std::upper_bound(first, first + index.unique, static_cast<std::uint32_t>(i));
    return index.code(static_cast<std::size_t>(after - first - 1));
}

void expect(Index& index) {
    constexpr std::size_t samples = 16;
    const std::size_t count = std::min(index.unique, samples);
    for (Chunk& chunk : index.chunks) {
        for (int s = 0; s < kExpectedShells && s <= chunk.width; ++s) {
            double codes = 0;
            for (std::size_t i = 0; i < count; ++i) {
                // By rows, not by unique codes: queries are where the pictures are.
                const std::uint32_t value = chunk.value(code_of_posting(index, index.n / count * i));
                for (const std::uint32_t mask : masks().all[s]) {
                    if (mask >> chunk.width) break;
                    codes += chunk.starts[(value ^ mask) + 1] - chunk.starts[value ^ mask];
                }
            }
            chunk.expected[s] = count ? codes / static_cast<double>(count) : 0;
        }
    }
}

Index build(Packed codes, int bits, Structure structure, unsigned threads) {
    Index index;
    index.structure = structure;
    index.bits = bits;
    index.n = index.unique = codes.n;
    if (structure == Structure::scan) {
        index.words = Integers(bits, codes.n);
        for (std::size_t row = 0; row < codes.n; ++row) index.words.set(row, codes[row]);
        return index;
    }
    index.chunks = lay_out(structure, bits);
    number_unique(index, codes, threads);
    parallel(index.chunks.size() - 1, 1, threads, [&](std::size_t begin, std::size_t end) {
        for (std::size_t i = begin; i < end; ++i) fill_chunk(index, index.chunks[i + 1]);
    });
    if (index.unique <= kMaxWords) {
        index.words = Integers(bits, index.unique);
        each_unique(index, [&](std::size_t i, std::uint64_t code) { index.words.set(i, code); });
    }
    expect(index);
    return index;
}

}  // namespace qo
