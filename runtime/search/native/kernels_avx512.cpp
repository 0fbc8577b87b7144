// AVX-512 with VPOPCNTDQ, BITALG and VBMI2: Ice Lake and Zen 4, or newer.
#include <immintrin.h>

#include "kernels.h"

namespace qo {
namespace {

using Wide = __m512i;

#include "kernels_vector.inl"

// Positions and distances of the lanes in `mask`. Compressing in a register and storing whole vectors is several times
// faster than compressing into memory on AMD, hence kSlack.
inline std::size_t put16(unsigned mask, __m128i distances, std::size_t at, std::uint32_t* positions,
                         std::uint8_t* out) {
    const Wide lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
    const Wide places = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(at)));
    _mm512_storeu_si512(positions, _mm512_maskz_compress_epi32(static_cast<__mmask16>(mask), places));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                     _mm_maskz_compress_epi8(static_cast<__mmask16>(mask), distances));
    return static_cast<std::size_t>(__builtin_popcount(mask));
}

struct U64 {
    static constexpr std::size_t lanes = 8;
    static const std::uint64_t* data(Column c) { return static_cast<const std::uint64_t*>(c.low); }
    static Wide load(Column c, std::size_t i) { return _mm512_loadu_si512(data(c) + i); }
    static Wide load_some(Column c, std::size_t i, std::size_t n) {
        return _mm512_maskz_loadu_epi64(static_cast<__mmask8>(first(n)), data(c) + i);
    }
    static unsigned first(std::size_t n) { return (1u << n) - 1; }
    static Wide broadcast(std::uint64_t q) { return _mm512_set1_epi64(static_cast<long long>(q)); }
    static Wide bound(int limit) { return _mm512_set1_epi64(limit); }
    static Wide distance(Wide a, Wide b) { return _mm512_popcnt_epi64(_mm512_xor_si512(a, b)); }
    static Wide least(Wide a, Wide b) { return _mm512_min_epi64(a, b); }
    static unsigned within(Wide d, Wide limit) { return _mm512_cmple_epi64_mask(d, limit); }
    static std::size_t emit(unsigned mask, Wide d, std::size_t at, std::uint32_t* positions, std::uint8_t* out) {
        return put16(mask, _mm512_cvtepi64_epi8(d), at, positions, out);
    }
};

struct U32 {
    static constexpr std::size_t lanes = 16;
    static const std::uint32_t* data(Column c) { return static_cast<const std::uint32_t*>(c.low); }
    static Wide load(Column c, std::size_t i) { return _mm512_loadu_si512(data(c) + i); }
    static Wide load_some(Column c, std::size_t i, std::size_t n) {
        return _mm512_maskz_loadu_epi32(static_cast<__mmask16>(first(n)), data(c) + i);
    }
    static unsigned first(std::size_t n) { return (1u << n) - 1; }
    static Wide broadcast(std::uint64_t q) { return _mm512_set1_epi32(static_cast<int>(q)); }
    static Wide bound(int limit) { return _mm512_set1_epi32(limit); }
    static Wide distance(Wide a, Wide b) { return _mm512_popcnt_epi32(_mm512_xor_si512(a, b)); }
    static Wide least(Wide a, Wide b) { return _mm512_min_epi32(a, b); }
    static unsigned within(Wide d, Wide limit) { return _mm512_cmple_epi32_mask(d, limit); }
    static std::size_t emit(unsigned mask, Wide d, std::size_t at, std::uint32_t* positions, std::uint8_t* out) {
        return put16(mask, _mm512_cvtepi32_epi8(d), at, positions, out);
    }
};

struct Pair {
    Wide low, high;
};

struct U48 : U32 {
    static Pair load(Column c, std::size_t i) {
        const auto* high = reinterpret_cast<const __m256i*>(c.high + i);
        return {U32::load(c, i), _mm512_cvtepu16_epi32(_mm256_loadu_si256(high))};
    }
    static Pair load_some(Column c, std::size_t i, std::size_t n) {
        const __m256i high = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(first(n)), c.high + i);
        return {U32::load_some(c, i, n), _mm512_cvtepu16_epi32(high)};
    }
    static Pair broadcast(std::uint64_t q) { return {U32::broadcast(q), U32::broadcast(q >> 32)}; }
    static Wide distance(Pair a, Pair b) {
        return _mm512_add_epi32(U32::distance(a.low, b.low), U32::distance(a.high, b.high));
    }
};

struct U16 {
    static constexpr std::size_t lanes = 32;
    static const std::uint16_t* data(Column c) { return static_cast<const std::uint16_t*>(c.low); }
    static Wide load(Column c, std::size_t i) { return _mm512_loadu_si512(data(c) + i); }
    static Wide load_some(Column c, std::size_t i, std::size_t n) {
        return _mm512_maskz_loadu_epi16(static_cast<__mmask32>(first(n)), data(c) + i);
    }
    static std::uint64_t first(std::size_t n) { return (std::uint64_t{1} << n) - 1; }
    static Wide broadcast(std::uint64_t q) { return _mm512_set1_epi16(static_cast<short>(q)); }
    static Wide bound(int limit) { return _mm512_set1_epi16(static_cast<short>(limit)); }
    static Wide distance(Wide a, Wide b) { return _mm512_popcnt_epi16(_mm512_xor_si512(a, b)); }
    static Wide least(Wide a, Wide b) { return _mm512_min_epi16(a, b); }
    static std::uint64_t within(Wide d, Wide limit) { return _mm512_cmple_epi16_mask(d, limit); }
    static std::size_t emit(std::uint64_t mask, Wide d, std::size_t at, std::uint32_t* positions, std::uint8_t* out) {
        const __m256i bytes = _mm512_cvtepi16_epi8(d);
        const unsigned low = mask & 0xffff, high = static_cast<unsigned>(mask >> 16);
        const std::size_t n = put16(low, _mm256_castsi256_si128(bytes), at, positions, out);
        return n + put16(high, _mm256_extracti128_si256(bytes, 1), at + 16, positions + n, out + n);
    }
};

struct U8 {
    static constexpr std::size_t lanes = 64;
    static const std::uint8_t* data(Column c) { return static_cast<const std::uint8_t*>(c.low); }
    static Wide load(Column c, std::size_t i) { return _mm512_loadu_si512(data(c) + i); }
    static Wide load_some(Column c, std::size_t i, std::size_t n) {
        return _mm512_maskz_loadu_epi8(first(n), data(c) + i);
    }
    static std::uint64_t first(std::size_t n) { return n == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << n) - 1; }
    static Wide broadcast(std::uint64_t q) { return _mm512_set1_epi8(static_cast<char>(q)); }
    static Wide bound(int limit) { return _mm512_set1_epi8(static_cast<char>(limit)); }
    static Wide distance(Wide a, Wide b) { return _mm512_popcnt_epi8(_mm512_xor_si512(a, b)); }
    static Wide least(Wide a, Wide b) { return _mm512_min_epi8(a, b); }
    static std::uint64_t within(Wide d, Wide limit) { return _mm512_cmple_epi8_mask(d, limit); }
    static std::size_t emit(std::uint64_t mask, Wide d, std::size_t at, std::uint32_t* positions, std::uint8_t* out) {
        std::size_t n = put16(mask & 0xffff, _mm512_extracti32x4_epi32(d, 0), at, positions, out);
        n += put16((mask >> 16) & 0xffff, _mm512_extracti32x4_epi32(d, 1), at + 16, positions + n, out + n);
        n += put16((mask >> 32) & 0xffff, _mm512_extracti32x4_epi32(d, 2), at + 32, positions + n, out + n);
        return n + put16(static_cast<unsigned>(mask >> 48), _mm512_extracti32x4_epi32(d, 3), at + 48, positions + n,
                         out + n);
    }
};

// Sixteen sums at a time: VPERMI2D picks from 32 words by the lowest five bits of each lane.
struct Look {
    static constexpr std::size_t key_lanes = 16;
    static constexpr int group = 5;
    struct Table {
        Wide first, second;
    };
    static Table table(const std::uint32_t* sums, std::size_t t) {
        return {_mm512_loadu_si512(sums + 32 * t), _mm512_loadu_si512(sums + 32 * t + 16)};
    }
    static Wide look_up(Table t, Wide index) { return _mm512_permutex2var_epi32(t.first, index, t.second); }
    static Wide shift(Wide x) { return _mm512_srli_epi32(x, group); }
    static Wide add(Wide a, Wide b) { return _mm512_add_epi32(a, b); }
    static Wide key_bound(std::uint32_t limit) { return _mm512_set1_epi32(static_cast<int>(limit)); }
    static unsigned at_most(Wide sum, Wide limit) { return _mm512_cmple_epu32_mask(sum, limit); }
    static __mmask16 some(std::size_t n) { return static_cast<__mmask16>((1u << n) - 1); }
    static std::size_t emit_keys(unsigned mask, Wide sum, std::size_t at, std::uint32_t* positions,
                                 std::uint32_t* found) {
        const Wide lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
        const Wide places = _mm512_add_epi32(lanes, _mm512_set1_epi32(static_cast<int>(at)));
        const auto lane = static_cast<__mmask16>(mask);
        _mm512_storeu_si512(positions, _mm512_maskz_compress_epi32(lane, places));
        _mm512_storeu_si512(found, _mm512_maskz_compress_epi32(lane, sum));
        return static_cast<std::size_t>(__builtin_popcount(mask));
    }
};

struct Look8 : Look {
    static constexpr int low_bits = 8, high_bits = 0;
    static Pair halves(Column c, std::size_t i) { return halves_some(c, i, 16); }
    static Pair halves_some(Column c, std::size_t i, std::size_t n) {
        const __m128i bytes = _mm_maskz_loadu_epi8(some(n), static_cast<const std::uint8_t*>(c.low) + i);
        return {_mm512_cvtepu8_epi32(bytes), _mm512_setzero_si512()};
    }
};

struct Look16 : Look {
    static constexpr int low_bits = 16, high_bits = 0;
    static Pair halves(Column c, std::size_t i) { return halves_some(c, i, 16); }
    static Pair halves_some(Column c, std::size_t i, std::size_t n) {
        const __m256i words = _mm256_maskz_loadu_epi16(some(n), static_cast<const std::uint16_t*>(c.low) + i);
        return {_mm512_cvtepu16_epi32(words), _mm512_setzero_si512()};
    }
};

struct Look32 : Look {
    static constexpr int low_bits = 32, high_bits = 0;
    static Pair halves(Column c, std::size_t i) { return {U32::load(c, i), _mm512_setzero_si512()}; }
    static Pair halves_some(Column c, std::size_t i, std::size_t n) {
        return {U32::load_some(c, i, n), _mm512_setzero_si512()};
    }
};

struct Look48 : Look {
    static constexpr int low_bits = 32, high_bits = 16;
    static Pair halves(Column c, std::size_t i) { return U48::load(c, i); }
    static Pair halves_some(Column c, std::size_t i, std::size_t n) { return U48::load_some(c, i, n); }
};

struct Look64 : Look {
    static constexpr int low_bits = 32, high_bits = 32;
    static Pair halves(Column c, std::size_t i) { return split(U64::load(c, i), U64::load(c, i + 8)); }
    static Pair halves_some(Column c, std::size_t i, std::size_t n) {
        const Wide first = U64::load_some(c, i, n < 8 ? n : 8);
        return split(first, n > 8 ? U64::load_some(c, i + 8, n - 8) : _mm512_setzero_si512());
    }
    static Pair split(Wide a, Wide b) {
        const Wide even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
        const Wide odd = _mm512_or_si512(even, _mm512_set1_epi32(1));
        return {_mm512_permutex2var_epi32(a, even, b), _mm512_permutex2var_epi32(a, odd, b)};
    }
};

}  // namespace

const Kernels kAvx512Kernels = {
    "avx512",
    {nullptr, filter<U8>, filter<U16>, filter<U32>, filter<U48>, filter<U64>},
    {nullptr, probe<U8>, probe<U16>, probe<U32>, probe<U48>, probe<U64>},
    {0, kBlock<U8>, kBlock<U16>, kBlock<U32>, kBlock<U48>, kBlock<U64>},
    {nullptr, weigh<Look8>, weigh<Look16>, weigh<Look32>, weigh<Look48>, weigh<Look64>},
    Look::group,
    squares,
};

}  // namespace qo
