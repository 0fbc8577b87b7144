// AVX2: Haswell and Zen, or newer. Bits are counted by looking up half-bytes (Muła, Kurz, Lemire: "Faster population
// counts using AVX2 instructions", 2018).
#include <immintrin.h>

#include <cstring>

#include "kernels.h"

namespace qo {
namespace {

using Wide = __m256i;

#include "kernels_vector.inl"

inline Wide byte_counts(Wide x) {
    const Wide table = _mm256_setr_epi8(0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 4, 0, 1, 1, 2, 1, 2, 2, 3, 1, 2, 2,
                                        3, 2, 3, 3, 4);
    const Wide nibble = _mm256_set1_epi8(15);
    const Wide low = _mm256_shuffle_epi8(table, _mm256_and_si256(x, nibble));
    return _mm256_add_epi8(low, _mm256_shuffle_epi8(table, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble)));
}

// Lanes of Size bytes. A distance fits into a lane's lowest byte, the others are zero.
template <int Size>
struct Lanes {
    static constexpr std::size_t lanes = 32 / Size;
    static Wide load(Column c, std::size_t i) {
        return _mm256_loadu_si256(reinterpret_cast<const Wide*>(static_cast<const std::uint8_t*>(c.low) + i * Size));
    }
    static Wide load_some(Column c, std::size_t i, std::size_t n) {
        alignas(32) std::uint8_t bytes[32] = {};
        std::memcpy(bytes, static_cast<const std::uint8_t*>(c.low) + i * Size, n * Size);
        return _mm256_load_si256(reinterpret_cast<const Wide*>(bytes));
    }
    // Masks have one bit a byte.
    static std::uint32_t first(std::size_t n) { return n == lanes ? ~0u : (1u << (n * Size)) - 1; }
    // Bytewise is right for wider lanes too: above their lowest byte there are only zeros.
    static Wide least(Wide a, Wide b) { return _mm256_min_epu8(a, b); }
    static std::size_t emit(std::uint32_t mask, Wide d, std::size_t at, std::uint32_t* positions, std::uint8_t* out) {
        alignas(32) std::uint8_t bytes[32];
        _mm256_store_si256(reinterpret_cast<Wide*>(bytes), d);
        std::size_t n = 0;
        while (mask) {
            const unsigned lane = static_cast<unsigned>(__builtin_ctz(mask)) / Size;
            positions[n] = static_cast<std::uint32_t>(at + lane);
            out[n++] = bytes[lane * Size];
            mask &= Size == 1 ? mask - 1 : ~(((1u << (Size & 31)) - 1) << (lane * Size));
        }
        return n;
    }
    static std::uint32_t mask(Wide beyond) { return ~static_cast<std::uint32_t>(_mm256_movemask_epi8(beyond)); }
};

struct U64 : Lanes<8> {
    static Wide broadcast(std::uint64_t q) { return _mm256_set1_epi64x(static_cast<long long>(q)); }
    static Wide bound(int limit) { return _mm256_set1_epi64x(limit); }
    static Wide distance(Wide a, Wide b) {
        return _mm256_sad_epu8(byte_counts(_mm256_xor_si256(a, b)), _mm256_setzero_si256());
    }
    static std::uint32_t within(Wide d, Wide limit) { return mask(_mm256_cmpgt_epi64(d, limit)); }
};

struct U32 : Lanes<4> {
    static Wide broadcast(std::uint64_t q) { return _mm256_set1_epi32(static_cast<int>(q)); }
    static Wide bound(int limit) { return _mm256_set1_epi32(limit); }
    static Wide sum(Wide counts) {
        return _mm256_madd_epi16(_mm256_maddubs_epi16(counts, _mm256_set1_epi8(1)), _mm256_set1_epi16(1));
    }
    static Wide distance(Wide a, Wide b) { return sum(byte_counts(_mm256_xor_si256(a, b))); }
    static std::uint32_t within(Wide d, Wide limit) { return mask(_mm256_cmpgt_epi32(d, limit)); }
};

struct Pair {
    Wide low, high;
};

struct U48 : U32 {
    static Pair load(Column c, std::size_t i) {
        const auto* high = reinterpret_cast<const __m128i*>(c.high + i);
        return {U32::load(c, i), _mm256_cvtepu16_epi32(_mm_loadu_si128(high))};
    }
    static Pair load_some(Column c, std::size_t i, std::size_t n) {
        alignas(16) std::uint16_t high[8] = {};
        std::memcpy(high, c.high + i, n * sizeof(std::uint16_t));
        return {U32::load_some(c, i, n), _mm256_cvtepu16_epi32(_mm_load_si128(reinterpret_cast<__m128i*>(high)))};
    }
    static Pair broadcast(std::uint64_t q) { return {U32::broadcast(q), U32::broadcast(q >> 32)}; }
    static Wide distance(Pair a, Pair b) {
        const Wide low = byte_counts(_mm256_xor_si256(a.low, b.low));
        return sum(_mm256_add_epi8(low, byte_counts(_mm256_xor_si256(a.high, b.high))));
    }
};

struct U16 : Lanes<2> {
    static Wide broadcast(std::uint64_t q) { return _mm256_set1_epi16(static_cast<short>(q)); }
    static Wide bound(int limit) { return _mm256_set1_epi16(static_cast<short>(limit)); }
    static Wide distance(Wide a, Wide b) {
        return _mm256_maddubs_epi16(byte_counts(_mm256_xor_si256(a, b)), _mm256_set1_epi8(1));
    }
    static std::uint32_t within(Wide d, Wide limit) { return mask(_mm256_cmpgt_epi16(d, limit)); }
};

struct U8 : Lanes<1> {
    static Wide broadcast(std::uint64_t q) { return _mm256_set1_epi8(static_cast<char>(q)); }
    static Wide bound(int limit) { return _mm256_set1_epi8(static_cast<char>(limit)); }
    static Wide distance(Wide a, Wide b) { return byte_counts(_mm256_xor_si256(a, b)); }
    static std::uint32_t within(Wide d, Wide limit) { return mask(_mm256_cmpgt_epi8(d, limit)); }
};

// Eight sums at a time: VPERMD picks from eight words by the lowest three bits of each lane.
struct Look {
    static constexpr std::size_t key_lanes = 8;
    static constexpr int group = 3;
    using Table = Wide;
    static Table table(const std::uint32_t* sums, std::size_t t) {
        return _mm256_loadu_si256(reinterpret_cast<const Wide*>(sums + 8 * t));
    }
    static Wide look_up(Table t, Wide index) { return _mm256_permutevar8x32_epi32(t, index); }
    static Wide shift(Wide x) { return _mm256_srli_epi32(x, group); }
    static Wide add(Wide a, Wide b) { return _mm256_add_epi32(a, b); }
    // Sums stay below 2^31, and so must what they are compared with.
    static Wide key_bound(std::uint32_t limit) {
        return _mm256_set1_epi32(static_cast<int>(limit < 0x7fffffff ? limit : 0x7fffffff));
    }
    static unsigned at_most(Wide sum, Wide limit) {
        const __m256 beyond = _mm256_castsi256_ps(_mm256_cmpgt_epi32(sum, limit));
        return ~static_cast<unsigned>(_mm256_movemask_ps(beyond)) & 255;
    }
    static std::size_t emit_keys(unsigned mask, Wide sum, std::size_t at, std::uint32_t* positions,
                                 std::uint32_t* found) {
        alignas(32) std::uint32_t sums[8];
        _mm256_store_si256(reinterpret_cast<Wide*>(sums), sum);
        std::size_t n = 0;
        for (; mask; mask &= mask - 1) {
            const auto lane = static_cast<unsigned>(__builtin_ctz(mask));
            positions[n] = static_cast<std::uint32_t>(at + lane);
            found[n++] = sums[lane];
        }
        return n;
    }
};

template <int Size>
struct LookNarrow : Look {
    static constexpr int low_bits = 8 * Size, high_bits = 0;
    static Pair halves(Column c, std::size_t i) {
        const std::uint8_t* from = static_cast<const std::uint8_t*>(c.low) + i * Size;
        if (Size == 4) return {_mm256_loadu_si256(reinterpret_cast<const Wide*>(from)), _mm256_setzero_si256()};
        if (Size == 2) {
            const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(from));
            return {_mm256_cvtepu16_epi32(words), _mm256_setzero_si256()};
        }
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(from));
        return {_mm256_cvtepu8_epi32(bytes), _mm256_setzero_si256()};
    }
    static Pair halves_some(Column c, std::size_t i, std::size_t n) {
        alignas(32) std::uint8_t bytes[32] = {};
        std::memcpy(bytes, static_cast<const std::uint8_t*>(c.low) + i * Size, n * Size);
        return halves({bytes, nullptr}, 0);
    }
};

struct Look48 : Look {
    static constexpr int low_bits = 32, high_bits = 16;
    static Pair halves(Column c, std::size_t i) { return U48::load(c, i); }
    static Pair halves_some(Column c, std::size_t i, std::size_t n) { return U48::load_some(c, i, n); }
};

struct Look64 : Look {
    static constexpr int low_bits = 32, high_bits = 32;
    static Pair halves(Column c, std::size_t i) {
        const Wide order = _mm256_setr_epi32(0, 2, 4, 6, 1, 3, 5, 7);
        const Wide a = _mm256_permutevar8x32_epi32(U64::load(c, i), order);
        const Wide b = _mm256_permutevar8x32_epi32(U64::load(c, i + 4), order);
        return {_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)};
    }
    static Pair halves_some(Column c, std::size_t i, std::size_t n) {
        alignas(32) std::uint64_t codes[8] = {};
        std::memcpy(codes, static_cast<const std::uint64_t*>(c.low) + i, n * sizeof(std::uint64_t));
        return halves({codes, nullptr}, 0);
    }
};

}  // namespace

const Kernels kAvx2Kernels = {
    "avx2",
    {nullptr, filter<U8>, filter<U16>, filter<U32>, filter<U48>, filter<U64>},
    {nullptr, probe<U8>, probe<U16>, probe<U32>, probe<U48>, probe<U64>},
    {0, kBlock<U8>, kBlock<U16>, kBlock<U32>, kBlock<U48>, kBlock<U64>},
    {nullptr, weigh<LookNarrow<1>>, weigh<LookNarrow<2>>, weigh<LookNarrow<4>>, weigh<Look48>, weigh<Look64>},
    Look::group,
    squares,
};

}  // namespace qo
