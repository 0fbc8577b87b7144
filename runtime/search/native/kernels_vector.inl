// The loops that AVX2 and AVX-512 share, over the traits of one kind: lanes, Vector, Bound, and functions on them.
// Included into an anonymous namespace: internal linkage (see kernels.h).

template <class T>
std::size_t filter(Column column, std::size_t begin, std::size_t end, std::uint64_t query, int limit,
                   std::uint32_t* positions, std::uint8_t* distances) {
    constexpr std::size_t lanes = T::lanes;
    const auto wanted = T::broadcast(query);
    const auto bound = T::bound(limit);
    std::size_t found = 0;
    std::size_t i = begin;
    for (; i + 4 * lanes <= end; i += 4 * lanes) {
        const auto d0 = T::distance(T::load(column, i), wanted);
        const auto d1 = T::distance(T::load(column, i + lanes), wanted);
        const auto d2 = T::distance(T::load(column, i + 2 * lanes), wanted);
        const auto d3 = T::distance(T::load(column, i + 3 * lanes), wanted);
        const auto m0 = T::within(d0, bound);
        const auto m1 = T::within(d1, bound);
        const auto m2 = T::within(d2, bound);
        const auto m3 = T::within(d3, bound);
        if (m0 | m1 | m2 | m3) {
            found += T::emit(m0, d0, i, positions + found, distances + found);
            found += T::emit(m1, d1, i + lanes, positions + found, distances + found);
            found += T::emit(m2, d2, i + 2 * lanes, positions + found, distances + found);
            found += T::emit(m3, d3, i + 3 * lanes, positions + found, distances + found);
        }
    }
    for (; i < end; i += lanes) {
        const std::size_t left = end - i < lanes ? end - i : lanes;
        const auto d = T::distance(T::load_some(column, i, left), wanted);
        const auto mask = T::within(d, bound) & T::first(left);
        if (mask) found += T::emit(mask, d, i, positions + found, distances + found);
    }
    return found;
}

// Eight vectors and four queries stay in registers; the minima of eight vectors are compared once.
template <class T>
std::size_t probe(Column column, std::size_t begin, std::size_t end, const std::uint64_t* queries, const int* limits,
                  unsigned* hits) {
    constexpr std::size_t lanes = T::lanes;
    constexpr std::size_t block = 8 * lanes;
    const auto q0 = T::broadcast(queries[0]), q1 = T::broadcast(queries[1]);
    const auto q2 = T::broadcast(queries[2]), q3 = T::broadcast(queries[3]);
    const auto l0 = T::bound(limits[0]), l1 = T::bound(limits[1]), l2 = T::bound(limits[2]), l3 = T::bound(limits[3]);
    std::size_t i = begin;
    for (; i + block <= end; i += block) {
        auto code = T::load(column, i);
        auto n0 = T::distance(code, q0), n1 = T::distance(code, q1);
        auto n2 = T::distance(code, q2), n3 = T::distance(code, q3);
        for (std::size_t v = 1; v < 8; ++v) {
            code = T::load(column, i + v * lanes);
            n0 = T::least(n0, T::distance(code, q0));
            n1 = T::least(n1, T::distance(code, q1));
            n2 = T::least(n2, T::distance(code, q2));
            n3 = T::least(n3, T::distance(code, q3));
        }
        const auto m0 = T::within(n0, l0), m1 = T::within(n1, l1), m2 = T::within(n2, l2), m3 = T::within(n3, l3);
        if (m0 | m1 | m2 | m3) {
            *hits = (m0 ? 1u : 0u) | (m1 ? 2u : 0u) | (m2 ? 4u : 0u) | (m3 ? 8u : 0u);
            return i;
        }
    }
    *hits = 0;
    return i;
}

// Sixteen margins at a time, which both have instructions for: most codes have no more than 32.
inline void squares(const std::int8_t* margins, std::size_t stride, const std::uint32_t* rows, std::size_t count,
                    const std::int8_t* query, std::uint32_t* found) {
    const auto widened = [](const std::int8_t* from) {
        return _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
    };
    for (std::size_t i = 0; i < count; ++i) {
        const std::int8_t* of_row = margins + rows[i] * stride;
        __m256i sums = _mm256_setzero_si256();
        for (std::size_t b = 0; b < stride; b += kMarginStep) {
            const __m256i difference = _mm256_sub_epi16(widened(of_row + b), widened(query + b));
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(difference, difference));
        }
        __m128i sum = _mm_add_epi32(_mm256_castsi256_si128(sums), _mm256_extracti128_si256(sums, 1));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0x4e));
        sum = _mm_add_epi32(sum, _mm_shuffle_epi32(sum, 0xb1));
        found[i] = static_cast<std::uint32_t>(_mm_cvtsi128_si32(sum));
    }
}

template <class T>
constexpr std::size_t kBlock = 8 * T::lanes;

// T: how one kind's codes become two vectors of 32-bit words, of which `low_bits` and `high_bits` are used; and look-ups
// of `group` bits in such vectors, which leave the bits above unread.
template <class T>
std::size_t weigh(Column column, std::size_t begin, std::size_t end, const std::uint32_t* sums, std::uint32_t limit,
                  std::uint32_t* positions, std::uint32_t* found) {
    constexpr std::size_t low = tables(T::low_bits, T::group), high = tables(T::high_bits, T::group);
    // Where they fit, they stay in registers for the whole call.
    typename T::Table table[low + high];
    for (std::size_t t = 0; t < low; ++t) table[t] = T::table(sums, t);
    for (std::size_t t = 0; t < high; ++t) table[low + t] = T::table(sums, tables(32, T::group) + t);
    const Wide bound = T::key_bound(limit);
    std::size_t count = 0;
    for (std::size_t i = begin; i < end; i += T::key_lanes) {
        const std::size_t left = end - i < T::key_lanes ? end - i : T::key_lanes;
        auto code = left == T::key_lanes ? T::halves(column, i) : T::halves_some(column, i, left);
        Wide sum = T::look_up(table[0], code.low);
        for (std::size_t t = 1; t < low; ++t) {
            code.low = T::shift(code.low);
            sum = T::add(sum, T::look_up(table[t], code.low));
        }
        for (std::size_t t = 0; t < high; ++t) {
            sum = T::add(sum, T::look_up(table[low + t], code.high));
            code.high = T::shift(code.high);
        }
        const unsigned mask = T::at_most(sum, bound) & ((1u << left) - 1);
        if (mask) count += T::emit_keys(mask, sum, i, positions + count, found + count);
    }
    return count;
}
