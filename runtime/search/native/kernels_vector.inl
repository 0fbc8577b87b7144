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

template <class T>
constexpr std::size_t kBlock = 8 * T::lanes;
