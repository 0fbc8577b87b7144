// The Python side: queryopt.runtime.search._core. Arguments were checked in Python; what comes here is well-formed, or
// the answer is "no" (search) and Python finds the words for what is wrong.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <optional>

#include "batch.h"
#include "dispatch.h"
#include "rank.h"
#include "sections.h"

namespace nb = nanobind;

namespace {

// An array through the buffer protocol: an order of magnitude quicker to take than through DLPack, and a look-up takes
// no more than a few microseconds.
class Buffer {
  public:
    Buffer(nb::handle object, int flags) : valid_(PyObject_GetBuffer(object.ptr(), &view_, flags) == 0) {
        if (!valid_) PyErr_Clear();
    }
    ~Buffer() {
        if (valid_) PyBuffer_Release(&view_);
    }
    Buffer(const Buffer&) = delete;
    Buffer& operator=(const Buffer&) = delete;

    // Whether it is C-contiguous memory of this many dimensions and of items of one of these formats.
    bool is(int dimensions, Py_ssize_t item, const char* formats) const {
        if (!valid_ || view_.ndim != dimensions || view_.itemsize != item || view_.format == nullptr) return false;
        const char* format = view_.format;
        return format[0] != '\0' && format[1] == '\0' && std::strchr(formats, format[0]) != nullptr;
    }
    Py_ssize_t shape(int i) const { return view_.shape[i]; }
    std::size_t bytes() const { return static_cast<std::size_t>(view_.len); }
    template <class T>
    T* data() const {
        return static_cast<T*>(view_.buf);
    }

  private:
    Py_buffer view_{};
    bool valid_;
};

constexpr int kRead = PyBUF_FORMAT | PyBUF_C_CONTIGUOUS;
constexpr int kWrite = kRead | PyBUF_WRITABLE;
constexpr const char* kUnsigned64 = "LQ";
constexpr const char* kSigned64 = "lq";
constexpr const char* kUnsigned32 = "IL";

qo::Structure structure_of(const std::string& name) {
    if (name == "scan") return qo::Structure::scan;
    if (name == "table") return qo::Structure::table;
    if (name == "multi-index") return qo::Structure::multi;
    throw std::invalid_argument("'" + name + "' is no structure");
}

const char* name_of(qo::Structure structure) {
    switch (structure) {
        case qo::Structure::scan: return "scan";
        case qo::Structure::table: return "table";
        case qo::Structure::multi: return "multi-index";
    }
    return "";
}

template <class T>
nb::object to_numpy(std::vector<T> values) {
    auto* kept = new std::vector<T>(std::move(values));
    nb::capsule owner(kept, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
    return nb::cast(nb::ndarray<nb::numpy, T, nb::ndim<1>>(kept->data(), {kept->size()}, owner));
}

nb::list to_list(const std::vector<qo::Spent>& all) {
    nb::list result;
    for (const qo::Spent& spent : all) {
        result.append(nb::make_tuple(spent.buckets, spent.codes, spent.shells, spent.scanned));
    }
    return result;
}

// None where a weight is out of range or the rank has another name.
std::optional<qo::Weights> weights_of(const Buffer& buffer, const std::string& rank) {
    const auto* weights = buffer.data<const std::uint16_t>();
    std::uint16_t largest = 0;
    for (Py_ssize_t i = 0; i < buffer.shape(0) * buffer.shape(1); ++i) largest = std::max(largest, weights[i]);
    if (largest > qo::kMaxWeight || (rank != "weighted" && rank != "tiebreak")) return std::nullopt;
    return qo::Weights{weights, rank == "weighted" ? qo::Rank::weighted : qo::Rank::tiebreak};
}

class CoreIndex {
  public:
    CoreIndex(nb::object codes, int bits, nb::object ids, const std::string& structure, const std::string& kernels,
              unsigned threads)
        : kernels_(qo::find_kernels(kernels)) {
        const Buffer packed(codes, kRead);
        if (bits < 1 || bits > qo::kMaxBits || !packed.is(2, 1, "B") || packed.shape(1) != (bits + 7) / 8) {
            throw std::invalid_argument("codes are no packed uint8 [n, ceil(bits / 8)]");
        }
        const auto n = static_cast<std::size_t>(packed.shape(0));
        if (n >= qo::kMaxRows) throw std::invalid_argument("more codes than 32-bit row numbers");
        take_ids(ids, n);
        const qo::Packed input{packed.data<const std::uint8_t>(), n, static_cast<int>(packed.shape(1))};
        const qo::Structure wanted = structure == "auto" ? qo::choose(bits, n) : structure_of(structure);
        const nb::gil_scoped_release unlocked;
        index_ = qo::build(input, bits, wanted, threads);
        qo::calibrate(index_, kernels_);
    }

    // An index over the arrays of `sections`, {name: uint8 [bytes]}, which it keeps.
    CoreIndex(const std::string& structure, int bits, std::size_t n, std::size_t unique, nb::dict sections,
              nb::object ids, const std::string& kernels)
        : kernels_(qo::find_kernels(kernels)) {
        take_ids(ids, n);
        std::map<std::string, const Buffer*> found;
        for (const auto& [name, array] : sections) {
            kept_.push_back(std::make_unique<Buffer>(array, kRead));
            if (!kept_.back()->is(1, 1, "B")) throw std::invalid_argument("a section is no uint8 [bytes]");
            found[nb::cast<std::string>(name)] = kept_.back().get();
        }
        const auto find = [&](const std::string& name) -> qo::Section {
            const auto at = found.find(name);
            if (at == found.end()) return {name, nullptr, 0};
            return {name, at->second->data<const std::uint8_t>(), at->second->bytes()};
        };
        const qo::Structure wanted = structure_of(structure);
        const nb::gil_scoped_release unlocked;
        index_ = qo::restore(wanted, bits, n, unique, find);
        qo::calibrate(index_, kernels_);
    }

    // {name: uint8 [bytes]}: views of this index's arrays.
    nb::dict sections() const {
        nb::dict all;
        for (const qo::Section& section : qo::sections(index_)) {
            all[section.name.c_str()] = nb::cast(nb::ndarray<nb::numpy, const std::uint8_t, nb::ndim<1>>(
                static_cast<const std::uint8_t*>(section.data), {section.bytes}, nb::find(this)));
        }
        return all;
    }

    // The packed codes of all rows, or of `rows` uint32 [count] (all below n), into `to` uint8 [count, width], zeroed.
    void codes(nb::object rows, nb::object to) const {
        const Buffer wanted(rows, kRead), packed(to, kWrite);
        const auto width = static_cast<Py_ssize_t>((index_.bits + 7) / 8);
        const std::size_t count = rows.is_none() ? index_.n : static_cast<std::size_t>(wanted.shape(0));
        if ((!rows.is_none() && !wanted.is(1, 4, kUnsigned32)) || !packed.is(2, 1, "B") || packed.shape(1) != width ||
            static_cast<std::size_t>(packed.shape(0)) != count) {
            throw std::invalid_argument("rows are no uint32 [count], or codes no uint8 [count, ceil(bits / 8)]");
        }
        const nb::gil_scoped_release unlocked;
        auto* bytes = packed.data<std::uint8_t>();
        if (rows.is_none()) return qo::codes_of_all(index_, static_cast<int>(width), bytes);
        const auto* numbers = wanted.data<const std::uint32_t>();
        std::call_once(numbered_, [&] { numbers_ = qo::numbers_of_rows(index_); });
        for (std::size_t i = 0; i < count; ++i) {
            if (numbers[i] >= index_.n) throw std::invalid_argument("a row is beyond the last");
            const std::uint64_t code = index_.code(numbers_.size() ? numbers_[numbers[i]] : numbers[i]);
            for (Py_ssize_t b = 0; b < width; ++b) *bytes++ = static_cast<std::uint8_t>(code >> (8 * b));
        }
    }

    // Fills ids and distances [queries, k] and returns true; false where an argument is not what it must be.
    bool search(nb::handle codes, std::uint64_t k, nb::handle ids, nb::handle distances, unsigned threads,
                nb::object allowed) const {
        std::vector<std::uint64_t> queries;
        if (!read(codes, queries)) return false;
        const Buffer to(ids, kWrite), near(distances, kWrite), mask(allowed, kRead);
        const auto rows = static_cast<Py_ssize_t>(queries.size()), columns = static_cast<Py_ssize_t>(k);
        if (!to.is(2, 8, kSigned64) || !near.is(2, 4, "i") || to.shape(0) != rows || near.shape(0) != rows ||
            to.shape(1) != columns || near.shape(1) != columns) {
            return false;
        }
        const qo::Request request = ask(queries, threads, allowed, mask);
        const nb::gil_scoped_release unlocked;
        qo::nearest(request, k, to.data<std::int64_t>(), near.data<std::int32_t>());
        return true;
    }

    // As search, equal distances by margins int8 [queries, bits], those of the rows as in margins.h; scores are the
    // squares. Where margins of rows are unknown, the ids int64 [m] of these, and nothing was found.
    nb::object search_by_margins(nb::handle codes, nb::handle margins, std::uint64_t k, nb::handle rows, nb::handle ids,
                                 nb::handle distances, nb::handle scores, unsigned threads, nb::object allowed) const {
        std::vector<std::uint64_t> queries;
        if (!read(codes, queries)) return nb::cast(false);
        const Buffer of(margins, kRead), table(rows, kRead), to(ids, kWrite), near(distances, kWrite);
        const Buffer squares(scores, kWrite), mask(allowed, kRead);
        const auto columns = static_cast<Py_ssize_t>(k);
        if (!fits(of, table, queries.size()) || !to.is(2, 8, kSigned64) || !has_shape(to, queries.size(), columns) ||
            !near.is(2, 4, "i") || !has_shape(near, queries.size(), columns) || !squares.is(2, 4, "i") ||
            !has_shape(squares, queries.size(), columns)) {
            return nb::cast(false);
        }
        qo::Request request = ask(queries, threads, allowed, mask);
        request.margins = margins_of(of, table);
        std::vector<std::int64_t> unknown;
        {
            const nb::gil_scoped_release unlocked;
            unknown = qo::nearest(request, k, to.data<std::int64_t>(), near.data<std::int32_t>(),
                                  squares.data<std::int32_t>());
        }
        return unknown.empty() ? nb::cast(true) : to_numpy(std::move(unknown));
    }

    // (offsets, ids, distances), or None where `codes` is not what it must be.
    nb::object search_radius(nb::handle codes, int radius, unsigned threads, nb::object allowed) const {
        std::vector<std::uint64_t> queries;
        if (!read(codes, queries)) return nb::none();
        const Buffer mask(allowed, kRead);
        Joined found(ask(queries, threads, allowed, mask), radius);
        return nb::make_tuple(to_numpy(std::move(found.offsets)), to_numpy(std::move(found.ids)),
                              to_numpy(std::move(found.distances)));
    }

    // As search_radius, by margins: (offsets, ids, distances, scores), or what search_by_margins returns in place of them.
    nb::object search_radius_by_margins(nb::handle codes, nb::handle margins, int radius, nb::handle rows,
                                        unsigned threads, nb::object allowed) const {
        std::vector<std::uint64_t> queries;
        if (!read(codes, queries)) return nb::cast(false);
        const Buffer of(margins, kRead), table(rows, kRead), mask(allowed, kRead);
        if (!fits(of, table, queries.size())) return nb::cast(false);
        qo::Request request = ask(queries, threads, allowed, mask);
        request.margins = margins_of(of, table);
        Joined found(request, radius);
        if (!found.unknown.empty()) return to_numpy(std::move(found.unknown));
        return nb::make_tuple(to_numpy(std::move(found.offsets)), to_numpy(std::move(found.ids)),
                              to_numpy(std::move(found.distances)), to_numpy(std::move(found.squares)));
    }

    // A tuple (buckets, codes, shells, scanned) a query.
    nb::object explain(nb::handle codes, std::optional<std::uint64_t> k, int radius, nb::object allowed) const {
        std::vector<std::uint64_t> queries;
        if (!read(codes, queries)) return nb::none();
        const Buffer mask(allowed, kRead);
        std::vector<qo::Spent> all;
        {
            const qo::Request request = ask(queries, 1, allowed, mask);
            const nb::gil_scoped_release unlocked;
            all = qo::explain(request, k ? *k : qo::kAll, radius);
        }
        return to_list(all);
    }

    // Fills ids, distances and scores [queries, k] and returns true; false where an argument is not what it must be.
    bool search_ranked(nb::handle codes, nb::handle weights, std::uint64_t k, const std::string& rank, nb::handle ids,
                       nb::handle distances, nb::handle scores, unsigned threads, nb::object allowed) const {
        std::vector<std::uint64_t> queries;
        if (!read(codes, queries)) return false;
        const Buffer of(weights, kRead), to(ids, kWrite), near(distances, kWrite), sums(scores, kWrite);
        const Buffer mask(allowed, kRead);
        const std::size_t count = queries.size();
        const auto columns = static_cast<Py_ssize_t>(k);
        if (!of.is(2, 2, "H") || !has_shape(of, count, index_.bits) || !to.is(2, 8, kSigned64) ||
            !has_shape(to, count, columns) || !near.is(2, 4, "i") || !has_shape(near, count, columns) ||
            !sums.is(2, 4, "i") || !has_shape(sums, count, columns)) {
            return false;
        }
        const std::optional<qo::Weights> given = weights_of(of, rank);
        if (!given) return false;
        const qo::Request request = ask(queries, threads, allowed, mask);
        const nb::gil_scoped_release unlocked;
        qo::nearest_ranked(request, *given, ranked_costs(), k, to.data<std::int64_t>(), near.data<std::int32_t>(),
                           sums.data<std::int32_t>());
        return true;
    }

    // As explain, of search_ranked.
    nb::object explain_ranked(nb::handle codes, nb::handle weights, std::uint64_t k, const std::string& rank,
                              nb::object allowed) const {
        std::vector<std::uint64_t> queries;
        const Buffer of(weights, kRead), mask(allowed, kRead);
        if (!read(codes, queries) || !of.is(2, 2, "H") || of.shape(1) != index_.bits ||
            of.shape(0) != static_cast<Py_ssize_t>(queries.size())) {
            return nb::none();
        }
        const std::optional<qo::Weights> given = weights_of(of, rank);
        if (!given) return nb::none();
        std::vector<qo::Spent> all;
        {
            const qo::Request request = ask(queries, 1, allowed, mask);
            const nb::gil_scoped_release unlocked;
            all = qo::explain_ranked(request, *given, ranked_costs(), k);
        }
        return to_list(all);
    }

    // Measured once, when first asked for.
    const qo::Costs& ranked_costs() const {
        std::call_once(ranked_calibration_, [this] { ranked_costs_ = qo::calibrate_ranked(index_, kernels_); });
        return ranked_costs_;
    }

    const qo::Index& index() const { return index_; }
    // Of plain and of ranked searches.
    void set_share(double share) {
        ranked_costs();
        index_.costs.share = ranked_costs_.share = share;
    }
    const char* kernels() const { return kernels_.name; }

  private:
    // All hits within a radius, of one query after another.
    struct Joined {
        std::vector<std::int64_t> offsets, ids, unknown;
        std::vector<std::int32_t> distances, squares;

        Joined(const qo::Request& request, int radius) : offsets(request.queries.size() + 1) {
            const nb::gil_scoped_release unlocked;
            std::vector<qo::Hits> all = qo::within(request, radius);
            for (std::size_t i = 0; i < all.size(); ++i) {
                offsets[i + 1] = offsets[i] + static_cast<std::int64_t>(all[i].ids.size());
            }
            if (all.size() == 1) {
                ids = std::move(all[0].ids);
                distances = std::move(all[0].distances);
                squares = std::move(all[0].squares);
                unknown = std::move(all[0].unknown);
                return;
            }
            const auto total = static_cast<std::size_t>(offsets.back());
            ids.reserve(total);
            distances.reserve(total);
            if (request.margins.rows != nullptr) squares.reserve(total);
            for (qo::Hits& hits : all) {
                ids.insert(ids.end(), hits.ids.begin(), hits.ids.end());
                distances.insert(distances.end(), hits.distances.begin(), hits.distances.end());
                squares.insert(squares.end(), hits.squares.begin(), hits.squares.end());
                unknown.insert(unknown.end(), hits.unknown.begin(), hits.unknown.end());
                hits = qo::Hits();
            }
        }
    };

    static bool has_shape(const Buffer& buffer, std::size_t rows, Py_ssize_t columns) {
        return buffer.shape(0) == static_cast<Py_ssize_t>(rows) && buffer.shape(1) == columns;
    }

    // Whether these are the margins of so many queries, and of the rows.
    bool fits(const Buffer& queries, const Buffer& rows, std::size_t count) const {
        return queries.is(2, 1, "b") && has_shape(queries, count, index_.bits) && rows.is(2, 1, "b") &&
               has_shape(rows, index_.n, static_cast<Py_ssize_t>(qo::margin_stride(index_.bits)));
    }

    qo::Margins margins_of(const Buffer& queries, const Buffer& rows) const {
        return {rows.data<const std::int8_t>(), qo::margin_stride(index_.bits), queries.data<const std::int8_t>()};
    }

    void take_ids(nb::object ids, std::size_t n) {
        if (ids.is_none()) return;
        ids_.emplace(ids, kRead);
        if (!ids_->is(1, 8, kSigned64) || static_cast<std::size_t>(ids_->shape(0)) != n) {
            throw std::invalid_argument("ids are no int64 [n]");
        }
    }

    bool read(nb::handle codes, std::vector<std::uint64_t>& queries) const {
        const Buffer buffer(codes, kRead);
        const int bits = index_.bits;
        std::uint64_t all = 0;
        if (buffer.is(2, 1, "B") && buffer.shape(1) == (bits + 7) / 8) {
            const auto n = static_cast<std::size_t>(buffer.shape(0));
            const qo::Packed packed{buffer.data<const std::uint8_t>(), n, static_cast<int>(buffer.shape(1))};
            queries.resize(n);
            for (std::size_t i = 0; i < n; ++i) all |= queries[i] = packed[i];
        } else if (buffer.is(1, 8, kUnsigned64)) {
            const auto* values = buffer.data<const std::uint64_t>();
            queries.assign(values, values + buffer.shape(0));
            for (const std::uint64_t query : queries) all |= query;
        } else {
            return false;
        }
        return bits == qo::kMaxBits || all >> bits == 0;
    }

    qo::Request ask(const std::vector<std::uint64_t>& queries, unsigned threads, nb::object allowed,
                    const Buffer& mask) const {
        const std::uint64_t* bits = nullptr;
        if (!allowed.is_none()) {
            if (!mask.is(1, 8, kUnsigned64) || static_cast<std::size_t>(mask.shape(0)) < (index_.n + 63) / 64) {
                throw std::invalid_argument("allowed is no uint64 [ceil(n / 64)]");
            }
            bits = mask.data<const std::uint64_t>();
        }
        const std::int64_t* ids = ids_ ? ids_->data<const std::int64_t>() : nullptr;
        return {index_, kernels_, queries, ids, bits, threads};
    }

    const qo::Kernels& kernels_;
    qo::Index index_;
    std::optional<Buffer> ids_;
    mutable std::once_flag ranked_calibration_;
    mutable qo::Costs ranked_costs_;
    std::vector<std::unique_ptr<Buffer>> kept_;  // what index_ is a view of
    // Made when rows are first asked for by number: selective filters need it, plain searches don't.
    mutable std::once_flag numbered_;
    mutable qo::Array<std::uint32_t> numbers_;
};

// The margins int8 [count, bits] of these rows, int64 [count], into `table`; those that are known stay.
void set_margins(nb::handle table, nb::handle rows, nb::handle margins) {
    const Buffer to(table, kWrite), numbers(rows, kRead), from(margins, kRead);
    if (!to.is(2, 1, "b") || !numbers.is(1, 8, kSigned64) || !from.is(2, 1, "b") || from.shape(1) < 1 ||
        from.shape(0) != numbers.shape(0) || from.shape(1) > to.shape(1)) {
        throw std::invalid_argument("margins are no int8 [count, bits], or rows no int64 [count]");
    }
    const auto stride = static_cast<std::size_t>(to.shape(1)), bits = static_cast<std::size_t>(from.shape(1));
    const auto* row = numbers.data<const std::int64_t>();
    for (std::size_t i = 0; i < static_cast<std::size_t>(numbers.shape(0)); ++i) {
        if (row[i] < 0 || row[i] >= to.shape(0)) throw std::invalid_argument("a row is beyond the last");
        qo::set_margins(to.data<std::int8_t>() + static_cast<std::size_t>(row[i]) * stride,
                        from.data<const std::int8_t>() + i * bits, bits);
    }
}

std::vector<std::string> paths() {
    std::vector<std::string> names;
    for (const qo::Kernels* kernels : qo::available_kernels()) names.emplace_back(kernels->name);
    return names;
}

}  // namespace

NB_MODULE(_core, m) {
    m.doc() = "Exact search by Hamming distance: the native core of queryopt.runtime.search.";
    m.def("paths", &paths, "The instruction paths that can run here, fastest first.");
    m.def("set_margins", &set_margins, nb::arg("table"), nb::arg("rows"), nb::arg("margins"));
    nb::class_<CoreIndex>(m, "Index")
        .def(nb::init<nb::object, int, nb::object, const std::string&, const std::string&, unsigned>(),
             nb::arg("codes"), nb::arg("bits"), nb::arg("ids").none(), nb::arg("structure"), nb::arg("path"),
             nb::arg("threads"))
        .def(nb::init<const std::string&, int, std::size_t, std::size_t, nb::dict, nb::object, const std::string&>(),
             nb::arg("structure"), nb::arg("bits"), nb::arg("n"), nb::arg("unique"), nb::arg("sections"),
             nb::arg("ids").none(), nb::arg("path"))
        .def("sections", &CoreIndex::sections)
        .def("codes", &CoreIndex::codes, nb::arg("rows").none(), nb::arg("codes"))
        .def("search", &CoreIndex::search, nb::arg("codes"), nb::arg("k"), nb::arg("ids"), nb::arg("distances"),
             nb::arg("threads") = 1, nb::arg("allowed") = nb::none())
        .def("search_radius", &CoreIndex::search_radius, nb::arg("codes"), nb::arg("radius"), nb::arg("threads") = 1,
             nb::arg("allowed") = nb::none())
        .def("search_by_margins", &CoreIndex::search_by_margins, nb::arg("codes"), nb::arg("margins").none(), nb::arg("k"),
             nb::arg("table"), nb::arg("ids"), nb::arg("distances"), nb::arg("scores"), nb::arg("threads") = 1,
             nb::arg("allowed") = nb::none())
        .def("search_radius_by_margins", &CoreIndex::search_radius_by_margins, nb::arg("codes"), nb::arg("margins"),
             nb::arg("radius"), nb::arg("table"), nb::arg("threads") = 1, nb::arg("allowed") = nb::none())
        .def("explain", &CoreIndex::explain, nb::arg("codes"), nb::arg("k").none(), nb::arg("radius"),
             nb::arg("allowed") = nb::none())
        .def("search_ranked", &CoreIndex::search_ranked, nb::arg("codes"), nb::arg("weights"), nb::arg("k"),
             nb::arg("rank"), nb::arg("ids"), nb::arg("distances"), nb::arg("scores"), nb::arg("threads") = 1,
             nb::arg("allowed") = nb::none())
        .def("explain_ranked", &CoreIndex::explain_ranked, nb::arg("codes"), nb::arg("weights"), nb::arg("k"),
             nb::arg("rank"), nb::arg("allowed") = nb::none())
        .def_prop_ro("structure", [](const CoreIndex& self) { return name_of(self.index().structure); })
        .def_prop_ro("path", &CoreIndex::kernels)
        .def_prop_ro("unique", [](const CoreIndex& self) { return self.index().unique; })
        .def_prop_ro("nbytes", [](const CoreIndex& self) { return self.index().bytes(); })
        .def_prop_ro("costs",
                     [](const CoreIndex& self) {
                         const qo::Costs& costs = self.index().costs;
                         return nb::make_tuple(costs.scan, costs.bucket, costs.code);
                     })
        .def_prop_ro("ranked_costs",
                     [](const CoreIndex& self) {
                         const qo::Costs& costs = self.ranked_costs();
                         return nb::make_tuple(costs.scan, costs.bucket, costs.code);
                     })
        .def_prop_rw(
            "share", [](const CoreIndex& self) { return self.index().costs.share; }, &CoreIndex::set_share);
}
