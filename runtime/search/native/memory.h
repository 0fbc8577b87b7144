// Arrays that a search reads: owned, or views of a mapped file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <new>
#include <utility>
#include <type_traits>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "kernels.h"

namespace qo {

// Large arrays are read at random: with 2 MiB pages a look-up misses the cache, but not the page tables too.
constexpr std::size_t kHugePage = std::size_t{1} << 21;

template <class T>
class Array {
    static_assert(std::is_trivially_copyable_v<T>);

  public:
    Array() = default;
    explicit Array(std::size_t size) : size_(size) {
        const bool huge = size * sizeof(T) >= 4 * kHugePage;
        const std::size_t alignment = huge ? kHugePage : 64;
        // No padding: an address sanitizer sees every access beyond the end.
        const std::size_t bytes = size * sizeof(T);
        void* memory = ::operator new(bytes, std::align_val_t{alignment});
#ifdef MADV_HUGEPAGE
        if (huge) madvise(memory, bytes, MADV_HUGEPAGE);
#endif
        owner_ = std::shared_ptr<void>(memory, [alignment](void* p) { ::operator delete(p, std::align_val_t{alignment}); });
        data_ = static_cast<T*>(memory);
    }
    // A view; `owner` keeps the memory.
    Array(T* data, std::size_t size, std::shared_ptr<void> owner)
        : data_(data), size_(size), owner_(std::move(owner)) {}

    static Array zeros(std::size_t size) {
        Array made(size);
        for (std::size_t i = 0; i < size; ++i) made.data_[i] = T{};
        return made;
    }

    T* data() { return data_; }
    const T* data() const { return data_; }
    std::size_t size() const { return size_; }
    std::size_t bytes() const { return size_ * sizeof(T); }
    T& operator[](std::size_t i) { return data_[i]; }
    const T& operator[](std::size_t i) const { return data_[i]; }

  private:
    T* data_ = nullptr;
    std::size_t size_ = 0;
    std::shared_ptr<void> owner_;
};

// The narrowest kind that holds integers of so many bits.
inline Kind kind_of(int bits) {
    if (bits == 0) return Kind::none;
    if (bits <= 8) return Kind::u8;
    if (bits <= 16) return Kind::u16;
    if (bits <= 32) return Kind::u32;
    return bits <= 48 ? Kind::u48 : Kind::u64;
}

// An owned column of integers of `bits` bits.
class Integers {
  public:
    Integers() = default;
    Integers(int bits, std::size_t size) : kind_(kind_of(bits)), size_(size) {
        low_ = Array<std::uint8_t>(size * width_of(kind_));
        if (kind_ == Kind::u48) high_ = Array<std::uint16_t>(size);
    }

    // A view of arrays that lie elsewhere.
    Integers(int bits, Array<std::uint8_t> low, Array<std::uint16_t> high, std::size_t size)
        : kind_(kind_of(bits)), size_(size), low_(std::move(low)), high_(std::move(high)) {}

    Kind kind() const { return kind_; }
    std::size_t size() const { return size_; }
    std::size_t bytes() const { return low_.bytes() + high_.bytes(); }
    Column column() const { return {low_.data(), high_.data()}; }

    std::uint64_t get(std::size_t i) const {
        switch (kind_) {
            case Kind::none: return 0;
            case Kind::u8: return at<std::uint8_t>(i);
            case Kind::u16: return at<std::uint16_t>(i);
            case Kind::u32: return at<std::uint32_t>(i);
            case Kind::u48: return at<std::uint32_t>(i) | static_cast<std::uint64_t>(high_[i]) << 32;
            case Kind::u64: return at<std::uint64_t>(i);
        }
        return 0;
    }

    void set(std::size_t i, std::uint64_t value) {
        switch (kind_) {
            case Kind::none: return;
            case Kind::u8: put<std::uint8_t>(i, value); return;
            case Kind::u16: put<std::uint16_t>(i, value); return;
            case Kind::u32: put<std::uint32_t>(i, value); return;
            case Kind::u48:
                put<std::uint32_t>(i, value);
                high_[i] = static_cast<std::uint16_t>(value >> 32);
                return;
            case Kind::u64: put<std::uint64_t>(i, value); return;
        }
    }

    void prefetch(std::size_t i) const {
        __asm__ volatile("");  // see below
        __builtin_prefetch(low_.data() + i * low_width());
        if (kind_ == Kind::u48) __builtin_prefetch(high_.data() + i);
    }

    // All of [begin, end), so that it is there a little later.
    void prefetch(std::size_t begin, std::size_t end) const {
        // To GCC (12 at least), a function that does nothing but prefetch has no effect, and its calls may go. This one
        // has: an empty statement that must stay.
        __asm__ volatile("");
        const std::size_t width = low_width();
        const auto* low = low_.data();
        for (std::size_t at = begin * width & ~std::size_t{63}; at < end * width; at += 64) __builtin_prefetch(low + at);
        if (kind_ != Kind::u48) return;
        const auto* high = reinterpret_cast<const std::uint8_t*>(high_.data());
        for (std::size_t at = begin * 2 & ~std::size_t{63}; at < end * 2; at += 64) __builtin_prefetch(high + at);
    }

    // As above, of the low halves alone, and no further than the second level of the cache: the first has fewer places
    // for what is under way, and they limit how many buckets can be.
    void prefetch_low(std::size_t begin, std::size_t end) const {
        __asm__ volatile("");
        const std::size_t width = low_width();
        const auto* low = low_.data();
        for (std::size_t at = begin * width & ~std::size_t{63}; at < end * width; at += 64) {
            __builtin_prefetch(low + at, 0, 2);
        }
    }

    std::size_t low_width() const { return width_of(kind_); }

    static std::size_t width_of(Kind kind) {
        switch (kind) {
            case Kind::none: return 0;
            case Kind::u8: return 1;
            case Kind::u16: return 2;
            case Kind::u32:
            case Kind::u48: return 4;
            case Kind::u64: return 8;
        }
        return 0;
    }

  private:
    template <class T>
    T at(std::size_t i) const {
        return reinterpret_cast<const T*>(low_.data())[i];
    }
    template <class T>
    void put(std::size_t i, std::uint64_t value) {
        reinterpret_cast<T*>(low_.data())[i] = static_cast<T>(value);
    }

    Kind kind_ = Kind::none;
    std::size_t size_ = 0;
    Array<std::uint8_t> low_;
    Array<std::uint16_t> high_;
};

}  // namespace qo
