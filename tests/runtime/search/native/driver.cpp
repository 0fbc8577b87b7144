// The search core against brute force, without Python: every structure, on every instruction path that this build and
// processor have, for many widths of codes; then several threads over one index.
//
//   driver CODES [threads]     with galleries of so many codes; only the several threads
//
// Prints one line and ends with 0, or names the first search that was wrong and ends with 1.
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <thread>
#include <tuple>
#include <utility>
#include <vector>

#include "batch.h"
#include "dispatch.h"
#include "rank.h"
#include "sections.h"

namespace {

using qo::Structure;
using Hit = std::pair<int, std::int64_t>;                  // distance, id
using Scored = std::tuple<int, int, std::int64_t>;         // what is first in the order, second, id

std::uint64_t random_word() {
    static std::uint64_t state = 1;  // splitmix64
    std::uint64_t x = state += 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
    return x ^ (x >> 31);
}

std::uint64_t mask_of(int bits) { return bits == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << bits) - 1; }

int distance_of(std::uint64_t a, std::uint64_t b) {
    int count = 0;
    for (std::uint64_t x = a ^ b; x; x &= x - 1) ++count;
    return count;
}

const char* name_of(Structure structure) {
    return structure == Structure::scan ? "scan" : structure == Structure::table ? "table" : "multi-index";
}

// A quarter of them equal, half in three clusters, a quarter anywhere.
std::vector<std::uint64_t> gallery(int bits, std::size_t n) {
    const std::uint64_t centres[] = {random_word(), random_word(), random_word()};
    std::vector<std::uint64_t> codes(n);
    for (std::size_t i = 0; i < n; ++i) {
        const std::uint64_t few = random_word() & random_word() & random_word() & random_word();
        switch (i % 4) {
            case 0: codes[i] = centres[0]; break;
            case 1: codes[i] = random_word(); break;
            default: codes[i] = centres[i % 3] ^ few; break;
        }
        codes[i] &= mask_of(bits);
    }
    return codes;
}

struct Gallery {
    int bits = 0;
    std::vector<std::uint64_t> codes, queries;
    std::vector<std::uint8_t> packed;
    std::vector<std::int64_t> ids;        // ascending, with gaps
    std::vector<std::uint64_t> allowed;   // every third row
    std::vector<std::uint16_t> weights;   // of each query's bits
    std::size_t stride;
    std::vector<std::int8_t> margins;         // of the rows, padded, small: many squares are equal
    std::vector<std::int8_t> query_margins;   // of each query's bits

    Gallery(int width, std::size_t n) : bits(width), codes(gallery(width, n)), stride(qo::margin_stride(width)) {
        const int bytes = (bits + 7) / 8;
        for (const std::uint64_t code : codes) {
            for (int i = 0; i < bytes; ++i) packed.push_back(static_cast<std::uint8_t>(code >> (8 * i)));
        }
        allowed.resize((n + 63) / 64);
        for (std::size_t i = 0; i < n; ++i) {
            ids.push_back(static_cast<std::int64_t>(3 * i + 5));
            if (i % 3 == 0) allowed[i / 64] |= std::uint64_t{1} << (i % 64);
        }
        for (std::size_t i = 0; i < std::min<std::size_t>(n, 5); ++i) queries.push_back(codes[i]);
        for (int i = 0; i < 2; ++i) queries.push_back(random_word() & mask_of(bits));
        for (std::size_t i = 0; i < queries.size() * static_cast<std::size_t>(bits); ++i) {
            weights.push_back(static_cast<std::uint16_t>(random_word() % (qo::kMaxWeight + 1)));
        }
        margins.resize(n * stride);
        for (std::size_t i = 0; i < n; ++i) fill(margins.data() + i * stride, codes[i]);
        query_margins.resize(weights.size());
        for (std::size_t i = 0; i < queries.size(); ++i) {
            fill(query_margins.data() + i * static_cast<std::size_t>(bits), queries[i]);
        }
    }

    // Margins whose signs are a code's bits.
    void fill(std::int8_t* to, std::uint64_t code) const {
        for (int b = 0; b < bits; ++b) {
            const int size = random_word() % 4 == 0 ? 127 : static_cast<int>(1 + random_word() % 2);
            to[b] = static_cast<std::int8_t>(code >> b & 1 ? size : -size);
        }
    }

    int square(std::size_t row, std::size_t query) const {
        int sum = 0;
        for (std::size_t b = 0; b < static_cast<std::size_t>(bits); ++b) {
            const int difference = margins[row * stride + b] - query_margins[query * static_cast<std::size_t>(bits) + b];
            sum += difference * difference;
        }
        return sum;
    }

    qo::Packed input() const { return {packed.data(), codes.size(), (bits + 7) / 8}; }

    // All hits of a query, in order.
    std::vector<Hit> hits(std::uint64_t query, bool filtered) const {
        std::vector<Hit> all;
        for (std::size_t i = 0; i < codes.size(); ++i) {
            if (!filtered || i % 3 == 0) all.emplace_back(distance_of(codes[i], query), ids[i]);
        }
        std::sort(all.begin(), all.end());
        return all;
    }
};

std::size_t checked = 0;

void expect(bool right, const Gallery& gallery, const qo::Index& index, const qo::Kernels& kernels, const char* what,
            std::uint64_t k) {
    ++checked;
    if (right) return;
    std::printf("wrong: %s %llu, %d bits, %zu codes, %s on path %s\n", what, static_cast<unsigned long long>(k),
                gallery.bits, gallery.codes.size(), name_of(index.structure), kernels.name);
    std::exit(1);
}

void check(const Gallery& gallery, const qo::Index& index, const qo::Kernels& kernels) {
    const std::size_t n = gallery.codes.size();
    for (const bool filtered : {false, true}) {
        std::vector<std::vector<Hit>> expected;
        for (const std::uint64_t query : gallery.queries) expected.push_back(gallery.hits(query, filtered));
        // Alone, and with the others at once.
        const std::vector<std::vector<std::uint64_t>> batches = {{gallery.queries[0]}, gallery.queries};
        for (const std::vector<std::uint64_t>& queries : batches) {
            const qo::Request request{index,  kernels, queries, gallery.ids.data(), filtered ? gallery.allowed.data() : nullptr,
                                      2};
            for (const std::uint64_t k : {std::uint64_t{1}, std::uint64_t{10}, static_cast<std::uint64_t>(n + 2)}) {
                std::vector<std::int64_t> ids(queries.size() * k, -7);
                std::vector<std::int32_t> distances(queries.size() * k, -7);
                qo::nearest(request, k, ids.data(), distances.data());
                for (std::size_t q = 0; q < queries.size(); ++q) {
                    for (std::size_t i = 0; i < k; ++i) {
                        const Hit none{gallery.bits + 1, -1};
                        const Hit& hit = i < expected[q].size() ? expected[q][i] : none;
                        expect(distances[q * k + i] == hit.first && ids[q * k + i] == hit.second, gallery, index, kernels,
                               "k", k);
                    }
                }
            }
            for (const int radius : {0, 2, gallery.bits}) {
                const std::vector<qo::Hits> found = qo::within(request, radius);
                for (std::size_t q = 0; q < queries.size(); ++q) {
                    std::size_t count = 0;
                    while (count < expected[q].size() && expected[q][count].first <= radius) ++count;
                    bool right = found[q].ids.size() == count;
                    for (std::size_t i = 0; right && i < count; ++i) {
                        right = Hit(found[q].distances[i], found[q].ids[i]) == expected[q][i];
                    }
                    expect(right, gallery, index, kernels, "radius", static_cast<std::uint64_t>(radius));
                }
            }
        }
    }
}

void check_by_margins(const Gallery& gallery, const qo::Index& index, const qo::Kernels& kernels) {
    constexpr std::size_t k = 20;
    for (const bool filtered : {false, true}) {
        const qo::Request request{index,
                                  kernels,
                                  gallery.queries,
                                  gallery.ids.data(),
                                  filtered ? gallery.allowed.data() : nullptr,
                                  2,
                                  {gallery.margins.data(), gallery.stride, gallery.query_margins.data()}};
        std::vector<std::int64_t> ids(gallery.queries.size() * k);
        std::vector<std::int32_t> distances(ids.size()), squares(ids.size());
        const bool known = qo::nearest(request, k, ids.data(), distances.data(), squares.data()).empty();
        const int radius = gallery.bits / 2;
        const std::vector<qo::Hits> near = qo::within(request, radius);
        for (std::size_t q = 0; q < gallery.queries.size(); ++q) {
            std::vector<Scored> all, within;
            for (const Hit& hit : gallery.hits(gallery.queries[q], filtered)) {
                all.emplace_back(hit.first, gallery.square(static_cast<std::size_t>(hit.second - 5) / 3, q), hit.second);
            }
            std::sort(all.begin(), all.end());
            const Scored none{gallery.bits + 1, -1, -1};
            for (std::size_t i = 0; i < k; ++i) {
                const Scored found{distances[q * k + i], squares[q * k + i], ids[q * k + i]};
                expect(known && found == (i < all.size() ? all[i] : none), gallery, index, kernels, "by margins", k);
            }
            for (std::size_t i = 0; i < near[q].ids.size(); ++i) {
                within.emplace_back(near[q].distances[i], near[q].squares[i], near[q].ids[i]);
            }
            while (!all.empty() && std::get<0>(all.back()) > radius) all.pop_back();
            expect(within == all && near[q].unknown.empty(), gallery, index, kernels, "radius by margins",
                   static_cast<std::uint64_t>(radius));
        }
    }
}

void check_ranked(const Gallery& gallery, const qo::Index& index, const qo::Kernels& kernels) {
    qo::Costs costs = qo::calibrate_ranked(index, kernels);
    costs.share = index.costs.share;
    const auto bits = static_cast<std::size_t>(gallery.bits);
    for (const bool filtered : {false, true}) {
        const qo::Request request{
            index, kernels, gallery.queries, gallery.ids.data(), filtered ? gallery.allowed.data() : nullptr, 2};
        for (const qo::Rank rank : {qo::Rank::weighted, qo::Rank::tiebreak}) {
            constexpr std::size_t k = 20;
            std::vector<std::int64_t> ids(gallery.queries.size() * k);
            std::vector<std::int32_t> distances(ids.size()), scores(ids.size());
            qo::nearest_ranked(request, {gallery.weights.data(), rank}, costs, k, ids.data(), distances.data(),
                               scores.data());
            for (std::size_t q = 0; q < gallery.queries.size(); ++q) {
                std::vector<Scored> all;
                for (const Hit& hit : gallery.hits(gallery.queries[q], filtered)) {
                    const auto row = static_cast<std::size_t>(hit.second - 5) / 3;
                    int score = 0;
                    for (std::size_t b = 0; b < bits; ++b) {
                        const bool differs = (gallery.codes[row] ^ gallery.queries[q]) >> b & 1;
                        score += differs ? gallery.weights[q * bits + b] : 0;
                    }
                    const bool weighted = rank == qo::Rank::weighted;
                    all.emplace_back(weighted ? score : hit.first, weighted ? hit.first : score, hit.second);
                }
                std::sort(all.begin(), all.end());
                for (std::size_t i = 0; i < k; ++i) {
                    const std::size_t at = q * k + i;
                    const bool weighted = rank == qo::Rank::weighted;
                    const Scored found{weighted ? scores[at] : distances[at], weighted ? distances[at] : scores[at], ids[at]};
                    const Scored none{weighted ? -1 : gallery.bits + 1, weighted ? gallery.bits + 1 : -1, -1};
                    expect(found == (i < all.size() ? all[i] : none), gallery, index, kernels,
                           weighted ? "weighted" : "tiebreak", k);
                }
            }
        }
    }
}

// The same index out of its own arrays, as from a file.
qo::Index restored(const qo::Index& index) {
    const std::vector<qo::Section> all = qo::sections(index);
    const auto find = [&](const std::string& name) -> qo::Section {
        for (const qo::Section& section : all) {
            if (section.name == name) return section;
        }
        return {name, nullptr, 0};
    };
    return qo::restore(index.structure, index.bits, index.n, index.unique, find);
}

void check_all(int bits, std::size_t n) {
    const Gallery gallery(bits, n);
    for (const Structure structure : {Structure::scan, Structure::table, Structure::multi}) {
        for (const qo::Kernels* kernels : qo::available_kernels()) {
            qo::Index index = qo::build(gallery.input(), bits, structure, 2);
            qo::calibrate(index, *kernels);
            // No look-ups at all, as measured, and look-ups to the end.
            for (const double share : {0.0, index.costs.share, 1e30}) {
                index.costs.share = share;
                check(gallery, index, *kernels);
                check_by_margins(gallery, index, *kernels);
            }
            check_ranked(gallery, index, *kernels);
            qo::Index again = restored(index);
            qo::calibrate(again, *kernels);
            check(gallery, again, *kernels);
            std::vector<std::uint8_t> codes(gallery.packed.size());
            qo::codes_of_all(again, gallery.input().width, codes.data());
            expect(codes == gallery.packed, gallery, again, *kernels, "codes of all", n);
        }
    }
}

// One thread gives the rows their margins while others search by them.
void check_setting(const Gallery& gallery, const qo::Index& index, const qo::Kernels& kernels) {
    const std::size_t n = gallery.codes.size(), k = 10;
    std::vector<std::int8_t> table(gallery.margins.size());
    const std::vector<std::uint64_t>& queries = gallery.queries;
    const qo::Request request{
        index, kernels, queries, nullptr, nullptr, 1, {table.data(), gallery.stride, gallery.query_margins.data()}};
    std::vector<std::vector<std::int64_t>> ids(2, std::vector<std::int64_t>(queries.size() * k));
    std::vector<std::thread> threads;
    for (std::size_t i = 0; i < ids.size(); ++i) {
        threads.emplace_back([&, i] {
            std::vector<std::int32_t> distances(ids[i].size()), squares(ids[i].size());
            while (!qo::nearest(request, k, ids[i].data(), distances.data(), squares.data()).empty()) {
            }
        });
    }
    for (std::size_t row = 0; row < n; ++row) {
        qo::set_margins(table.data() + row * gallery.stride, gallery.margins.data() + row * gallery.stride,
                        static_cast<std::size_t>(gallery.bits));
    }
    for (std::thread& thread : threads) thread.join();
    expect(ids[0] == ids[1], gallery, index, kernels, "margins that come meanwhile", k);
}

// Builds and searches of several threads at once, each with threads of its own.
void check_threads(std::size_t n) {
    const Gallery gallery(48, n);
    const qo::Kernels& kernels = qo::find_kernels("");
    qo::Index index = qo::build(gallery.input(), gallery.bits, Structure::multi, 4);
    qo::calibrate(index, kernels);
    qo::Costs costs = qo::calibrate_ranked(index, kernels);
    std::vector<std::uint64_t> queries;
    while (queries.size() < 300) queries.push_back(gallery.codes[random_word() % n]);
    const std::vector<std::uint16_t> weights(queries.size() * 48, 1);  // so that both orders are the same
    const qo::Request request{index, kernels, queries, nullptr, nullptr, 3};
    constexpr std::size_t k = 10;
    for (const double share : {0.0, index.costs.share}) {
        index.costs.share = costs.share = share;
        std::vector<std::vector<std::int64_t>> ids(4, std::vector<std::int64_t>(queries.size() * k));
        std::vector<std::thread> threads;
        for (std::size_t i = 0; i < ids.size(); ++i) {
            threads.emplace_back([&, i] {
                std::vector<std::int32_t> distances(ids[i].size()), scores(ids[i].size());
                if (i % 2 == 0) {
                    qo::nearest(request, k, ids[i].data(), distances.data());
                } else {
                    qo::nearest_ranked(request, {weights.data(), qo::Rank::weighted}, costs, k, ids[i].data(),
                                       distances.data(), scores.data());
                }
            });
        }
        for (std::thread& thread : threads) thread.join();
        for (std::size_t i = 0; i < ids.size(); ++i) expect(ids[i] == ids[0], gallery, index, kernels, "thread", i);
    }
    check_setting(gallery, index, kernels);
}

}  // namespace

int main(int count, char** values) {
    if (count < 2) {
        std::puts("usage: driver CODES [threads]");
        return 2;
    }
    const std::size_t n = std::max(std::strtoul(values[1], nullptr, 10), 1ul);
    if (count == 2) {
        for (const int bits : {1, 7, 8, 12, 16, 17, 24, 31, 32, 40, 48, 49, 63, 64}) check_all(bits, n);
        for (const std::size_t few : {0u, 1u, 2u, 63u, 64u, 65u, 300u}) check_all(few % 2 ? 24 : 48, few);
    }
    check_threads(n);
    std::string names;
    for (const qo::Kernels* kernels : qo::available_kernels()) names += std::string(" ") + kernels->name;
    std::printf("right: %zu results, on the paths%s\n", checked, names.c_str());
    return 0;
}
