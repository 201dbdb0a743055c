#pragma once

// File: io/slice.h
//
// Bytes and the share that keeps them alive. A `Block` is one piece of memory that is handed out in
// shares; when the last share goes, its owner takes the block back. Shares are plain counters: a
// block and all its shares belong to one thread.

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <string>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/base/macros.h"
#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace io {

struct Block;

// Takes blocks back. Outlives every share of its blocks.
class BlockOwner {
 public:
  virtual void Recycle(Block* block) = 0;

 protected:
  ~BlockOwner() = default;
};

struct Block {
  char* data = nullptr;
  size_t size = 0;
  uint32_t refs = 0;
  uint32_t index = 0;   // the owner's own number for it
  bool scarce = false;  // one of a fixed few, as receive buffers are: don't hold it for long
  BlockOwner* owner = nullptr;
};

// One counted share of a block, or none.
class BufferRef {
 public:
  BufferRef() = default;
  explicit BufferRef(Block* block) : block_(block) {
    if (block_ != nullptr) ++block_->refs;
  }
  BufferRef(const BufferRef& other) : BufferRef(other.block_) {}
  BufferRef(BufferRef&& other) noexcept : block_(std::exchange(other.block_, nullptr)) {}
  BufferRef& operator=(BufferRef other) noexcept {
    std::swap(block_, other.block_);
    return *this;
  }
  ~BufferRef() { Drop(); }

  void Drop() {
    Block* block = std::exchange(block_, nullptr);
    if (block != nullptr && --block->refs == 0) Return(block);
  }
  Block* get() const { return block_; }
  Block* operator->() const { return block_; }
  explicit operator bool() const { return block_ != nullptr; }

 private:
  static void Return(Block* block);  // out of line: what it is called from is small, and everywhere

  Block* block_ = nullptr;
};

// Bytes of one message and a share of the block that holds them. Copying adds a share. A slice
// without a block is static text.
class Slice {
 public:
  Slice() = default;
  Slice(BufferRef buffer, absl::string_view bytes) : buffer_(std::move(buffer)), bytes_(bytes) {}
  Slice(const Slice&) = default;
  // The other one is empty afterwards.
  Slice(Slice&& other) noexcept
      : buffer_(std::move(other.buffer_)), bytes_(std::exchange(other.bytes_, {})) {}
  Slice& operator=(const Slice&) = default;
  Slice& operator=(Slice&& other) noexcept {
    buffer_ = std::move(other.buffer_);
    bytes_ = std::exchange(other.bytes_, {});
    return *this;
  }
  ~Slice() = default;
  // `text` lives as long as the process.
  static Slice Static(absl::string_view text) { return Slice(BufferRef(), text); }

  absl::string_view bytes() const { return bytes_; }
  const char* data() const { return bytes_.data(); }
  size_t size() const { return bytes_.size(); }
  bool empty() const { return bytes_.empty(); }
  const BufferRef& buffer() const { return buffer_; }

  Slice Sub(size_t offset, size_t length) const {
    return Slice(buffer_, bytes_.substr(offset, length));
  }
  void RemovePrefix(size_t n) { bytes_.remove_prefix(n); }
  // True if `next` continues this slice in the same block.
  bool IsFollowedBy(const Slice& next) const {
    return buffer_.get() == next.buffer_.get() && buffer_ &&
           bytes_.data() + bytes_.size() == next.bytes_.data();
  }
  // Takes the bytes of `next` in if it continues this slice; false: it does not.
  bool Join(const Slice& next) { return buffer_ && TakeIn(next.buffer_.get(), next.bytes_); }
  // The same for bytes of `block`, of which nobody needs to have a share.
  bool TakeIn(const Block* block, absl::string_view next) {
    if (buffer_.get() != block || bytes_.data() + bytes_.size() != next.data()) return false;
    bytes_ = absl::string_view(bytes_.data(), bytes_.size() + next.size());
    return true;
  }

 private:
  BufferRef buffer_;
  absl::string_view bytes_;  // within *buffer_
};

// A message in pieces, in order. Neighbours in one block are joined. Most have one piece, which
// costs no memory of its own.
class Rope {
 public:
  Rope() = default;
  explicit Rope(Slice slice) : one_(std::move(slice)) {}
  Rope(const Rope& other) : one_(other.one_) {
    if (other.many_ != nullptr) CopyMany(*other.many_);
  }
  // The other one is empty afterwards.
  Rope(Rope&& other) noexcept
      : one_(std::move(other.one_)), many_(std::exchange(other.many_, nullptr)) {}
  Rope& operator=(const Rope& other) { return *this = Rope(other); }
  Rope& operator=(Rope&& other) noexcept {
    if (many_ != nullptr) DropMany();
    one_ = std::move(other.one_);
    many_ = std::exchange(other.many_, nullptr);
    return *this;
  }
  ~Rope() {
    if (many_ != nullptr) DropMany();
  }

  void Append(Slice slice) {
    if (slice.empty()) return;
    if (empty()) {
      one_ = std::move(slice);
    } else if (many_ != nullptr || !one_.Join(slice)) {
      AppendToMany(std::move(slice));
    }
  }
  void Append(const Rope& rope) {
    for (const Slice& slice : rope.slices()) Append(slice);
  }
  void Clear() {
    if (many_ != nullptr) DropMany();
    one_ = Slice();
  }
  // The pieces' bytes, which live as long as the rope.
  absl::InlinedVector<absl::string_view, 4> Views() const;
  // The bytes in one string.
  std::string Flatten() const;
  size_t size() const { return many_ == nullptr ? one_.size() : many_->bytes; }
  bool empty() const { return size() == 0; }
  // Valid until the rope is changed.
  absl::Span<const Slice> slices() const {
    if (many_ != nullptr) return many_->slices;
    return absl::MakeConstSpan(&one_, one_.empty() ? 0 : 1);
  }
  // If it has one piece only: that; else null.
  Slice* only_slice() { return many_ == nullptr ? &one_ : nullptr; }
  const Slice* only_slice() const { return many_ == nullptr ? &one_ : nullptr; }

 private:
  struct Many {
    absl::InlinedVector<Slice, 4> slices;
    size_t bytes = 0;
  };
  void AppendToMany(Slice slice);
  void CopyMany(const Many& many);
  void DropMany();

  Slice one_;             // all of it, if that is one piece
  Many* many_ = nullptr;  // owned; all of it otherwise
};

// Ranges of a rope, found without walking through it: it may have very many slices.
class RopeRanges {
 public:
  // `rope` outlives it and stays as it is.
  explicit RopeRanges(const Rope& rope) : rope_(rope) {
    size_t begin = 0;
    for (const Slice& slice : rope.slices()) {
      begins_.push_back(begin);
      begin += slice.size();
    }
  }
  // Bytes [offset, offset + length), appended to `out`. They must exist.
  void AppendTo(size_t offset, size_t length, Rope* out) const {
    ForEachPiece(offset, length, [out](const Slice& slice, size_t skip, size_t n) {
      out->Append(slice.Sub(skip, n));
    });
  }
  // The same, to `out` + length.
  void CopyTo(size_t offset, size_t length, char* out) const {
    ForEachPiece(offset, length, [&out](const Slice& slice, size_t skip, size_t n) {
      memcpy(out, slice.data() + skip, n);
      out += n;
    });
  }

 private:
  template <typename Fn>
  void ForEachPiece(size_t offset, size_t length, Fn fn) const {
    size_t i = static_cast<size_t>(std::upper_bound(begins_.begin(), begins_.end(), offset) -
                                   begins_.begin()) -
               1;
    for (; length > 0; ++i) {
      ABSL_ASSERT(i < begins_.size());
      const Slice& slice = rope_.slices()[i];
      const size_t skip = offset - begins_[i];
      const size_t n = std::min(length, slice.size() - skip);
      fn(slice, skip, n);
      offset += n;
      length -= n;
    }
  }

  const Rope& rope_;
  absl::InlinedVector<size_t, 4> begins_;  // of its slices
};

}  // namespace io
