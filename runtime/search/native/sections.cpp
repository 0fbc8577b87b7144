#include "sections.h"

#include <stdexcept>

namespace qo {
namespace {

[[noreturn]] void refuse(const std::string& name, const std::string& what) {
    throw std::invalid_argument("section '" + name + "' " + what);
}

template <class T>
Array<T> take(const Find& find, const std::string& name, std::size_t size) {
    const Section section = find(name);
    if (size == 0) return {};
    if (section.data == nullptr) refuse(name, "is missing");
    if (section.bytes != size * sizeof(T)) {
        refuse(name, "has " + std::to_string(section.bytes) + " bytes, not " + std::to_string(size * sizeof(T)));
    }
    if (reinterpret_cast<std::uintptr_t>(section.data) % 8 != 0) refuse(name, "is not aligned to 8 bytes");
    return Array<T>(static_cast<T*>(const_cast<void*>(section.data)), size, nullptr);
}

Integers take_integers(const Find& find, const std::string& name, int bits, std::size_t size) {
    const Kind kind = kind_of(bits);
    return {bits, take<std::uint8_t>(find, name, size * Integers::width_of(kind)),
            take<std::uint16_t>(find, name + ".high", kind == Kind::u48 ? size : 0), size};
}

// From 0 to `end`, without a step back (and with one forward each time, for `strictly`).
void check_ascends(const Array<std::uint32_t>& values, std::size_t end, bool strictly, const std::string& name) {
    bool ascends = values[0] == 0 && values[values.size() - 1] == end;
    for (std::size_t i = 1; i < values.size(); ++i) ascends &= values[i] >= values[i - 1] + (strictly ? 1u : 0u);
    if (!ascends) refuse(name, "does not ascend from 0 to " + std::to_string(end));
}

template <class Each>
void each_integers(const Integers& integers, const std::string& name, Each each) {
    each(name, integers.column().low, integers.size() * integers.low_width());
    each(name + ".high", integers.column().high, integers.kind() == Kind::u48 ? integers.size() * 2 : 0);
}

std::string name_of(std::size_t chunk) { return "chunk" + std::to_string(chunk); }

}  // namespace

std::vector<Section> sections(const Index& index) {
    std::vector<Section> all;
    const auto add = [&](const std::string& name, const void* data, std::size_t bytes) {
        if (bytes > 0) all.push_back({name, data, bytes});
    };
    each_integers(index.words, "words", add);
    for (std::size_t i = 0; i < index.chunks.size(); ++i) {
        const Chunk& chunk = index.chunks[i];
        add(name_of(i) + ".starts", chunk.starts.data(), chunk.starts.bytes());
        each_integers(chunk.rest, name_of(i), add);
    }
    add("postings", index.postings.data(), index.postings.bytes());
    add("first", index.first.data(), index.first.bytes());
    return all;
}

Index restore(Structure structure, int bits, std::size_t n, std::size_t unique, const Find& find) {
    if (bits < 1 || bits > kMaxBits || n >= kMaxRows || unique > n || (n > 0 && unique == 0)) {
        throw std::invalid_argument("the header's counts don't fit together");
    }
    Index index;
    index.structure = structure;
    index.bits = bits;
    index.n = n;
    index.unique = unique;
    if (structure == Structure::scan) {
        if (unique != n) throw std::invalid_argument("the header's counts don't fit together");
        index.words = take_integers(find, "words", bits, n);
        return index;
    }
    index.chunks = lay_out(structure, bits);
    for (std::size_t i = 0; i < index.chunks.size(); ++i) {
        Chunk& chunk = index.chunks[i];
        const std::string name = name_of(i);
        chunk.starts = take<std::uint32_t>(find, name + ".starts", (std::size_t{1} << chunk.width) + 1);
        check_ascends(chunk.starts, unique, false, name + ".starts");
        chunk.rest = take_integers(find, name, bits - chunk.width, unique);
    }
    index.postings = take<std::uint32_t>(find, "postings", n);
    std::uint32_t largest = 0;
    for (std::size_t i = 0; i < n; ++i) largest = largest < index.postings[i] ? index.postings[i] : largest;
    if (n > 0 && largest >= n) refuse("postings", "names rows beyond the last");
    if (unique < n) {
        index.first = take<std::uint32_t>(find, "first", unique + 1);
        check_ascends(index.first, n, true, "first");
    }
    if (unique <= kMaxWords) index.words = take_integers(find, "words", bits, unique);
    expect(index);
    return index;
}

void codes_of_all(const Index& index, int width, std::uint8_t* to) {
    const auto put = [&](std::size_t row, std::uint64_t code) {
        std::uint8_t* bytes = to + row * static_cast<std::size_t>(width);
        for (int i = 0; i < width; ++i) bytes[i] = static_cast<std::uint8_t>(code >> (8 * i));
    };
    if (index.structure == Structure::scan) {
        for (std::size_t row = 0; row < index.n; ++row) put(row, index.words.get(row));
        return;
    }
    each_unique(index, [&](std::size_t unique, std::uint64_t code) {
        const auto number = static_cast<std::uint32_t>(unique);
        for (std::uint32_t i = index.begin(number); i < index.end(number); ++i) put(index.postings[i], code);
    });
}

Array<std::uint32_t> numbers_of_rows(const Index& index) {
    if (index.structure == Structure::scan) return {};
    auto numbers = Array<std::uint32_t>::zeros(index.n);
    for (std::uint32_t unique = 0; unique < index.unique; ++unique) {
        for (std::uint32_t i = index.begin(unique); i < index.end(unique); ++i) numbers[index.postings[i]] = unique;
    }
    return numbers;
}

}  // namespace qo
