// Any processor: loops that a compiler turns into whatever vectors its target always has.
#include "kernels.h"

namespace qo {
namespace {

inline unsigned count(std::uint64_t x) {
#if defined(__POPCNT__) || defined(__aarch64__)
    return static_cast<unsigned>(__builtin_popcountll(x));
#else
    x -= (x >> 1) & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + ((x >> 2) & 0x3333333333333333u);
    x = (x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu;
    return static_cast<unsigned>((x * 0x0101010101010101u) >> 56);
#endif
}

template <class T>
struct One {
    static std::uint64_t get(Column c, std::size_t i) { return static_cast<const T*>(c.low)[i]; }
};

struct U48 {
    static std::uint64_t get(Column c, std::size_t i) {
        return static_cast<const std::uint32_t*>(c.low)[i] | static_cast<std::uint64_t>(c.high[i]) << 32;
    }
};

constexpr std::size_t kPlainBlock = 64;

template <class T>
std::size_t filter(Column column, std::size_t begin, std::size_t end, std::uint64_t query, int limit,
                   std::uint32_t* positions, std::uint8_t* distances) {
    std::size_t found = 0;
    for (std::size_t i = begin; i < end; ++i) {
        const unsigned distance = count(T::get(column, i) ^ query);
        // Written always, kept where it counts: no branch to mispredict.
        positions[found] = static_cast<std::uint32_t>(i);
        distances[found] = static_cast<std::uint8_t>(distance);
        found += static_cast<int>(distance) <= limit;
    }
    return found;
}

template <class T>
std::size_t probe(Column column, std::size_t begin, std::size_t end, const std::uint64_t* queries, const int* limits,
                  unsigned* hits) {
    std::size_t i = begin;
    for (; i + kPlainBlock <= end; i += kPlainBlock) {
        unsigned found = 0;
        for (int q = 0; q < kProbeQueries; ++q) {
            int least = 65;
            for (std::size_t j = i; j < i + kPlainBlock; ++j) {
                const int distance = static_cast<int>(count(T::get(column, j) ^ queries[q]));
                least = distance < least ? distance : least;
            }
            found |= (least <= limits[q] ? 1u : 0u) << q;
        }
        if (found) {
            *hits = found;
            return i;
        }
    }
    *hits = 0;
    return i;
}

template <class T, std::size_t Bytes>
std::size_t weigh(Column column, std::size_t begin, std::size_t end, const std::uint32_t* sums, std::uint32_t limit,
                  std::uint32_t* positions, std::uint32_t* found) {
    std::size_t count = 0;
    for (std::size_t i = begin; i < end; ++i) {
        const std::uint64_t code = T::get(column, i);
        std::uint32_t sum = 0;
        for (std::size_t byte = 0; byte < Bytes; ++byte) sum += sums[256 * byte + (code >> (8 * byte) & 255)];
        positions[count] = static_cast<std::uint32_t>(i);
        found[count] = sum;
        count += sum <= limit;
    }
    return count;
}

void squares(const std::int8_t* margins, std::size_t stride, const std::uint32_t* rows, std::size_t count,
             const std::int8_t* query, std::uint32_t* found) {
    for (std::size_t i = 0; i < count; ++i) {
        const std::int8_t* of_row = margins + rows[i] * stride;
        int sum = 0;
        for (std::size_t b = 0; b < stride; ++b) {
            const int difference = of_row[b] - query[b];
            sum += difference * difference;
        }
        found[i] = static_cast<std::uint32_t>(sum);
    }
}

}  // namespace

const Kernels kPlainKernels = {
    "plain",
    {nullptr, filter<One<std::uint8_t>>, filter<One<std::uint16_t>>, filter<One<std::uint32_t>>, filter<U48>,
     filter<One<std::uint64_t>>},
    {nullptr, probe<One<std::uint8_t>>, probe<One<std::uint16_t>>, probe<One<std::uint32_t>>, probe<U48>,
     probe<One<std::uint64_t>>},
    {0, kPlainBlock, kPlainBlock, kPlainBlock, kPlainBlock, kPlainBlock},
    {nullptr, weigh<One<std::uint8_t>, 1>, weigh<One<std::uint16_t>, 2>, weigh<One<std::uint32_t>, 4>, weigh<U48, 6>,
     weigh<One<std::uint64_t>, 8>},
    8,
    squares,
};

}  // namespace qo
