#include "io/slice.h"

namespace io {

void BufferRef::Return(Block* block) { block->owner->Recycle(block); }

absl::InlinedVector<absl::string_view, 4> Rope::Views() const {
  absl::InlinedVector<absl::string_view, 4> views;
  for (const Slice& slice : slices()) views.push_back(slice.bytes());
  return views;
}

std::string Rope::Flatten() const {
  std::string text;
  text.reserve(size());
  for (const Slice& slice : slices()) text.append(slice.data(), slice.size());
  return text;
}

void Rope::AppendToMany(Slice slice) {
  if (many_ == nullptr) {
    many_ = new Many;
    many_->bytes = one_.size();
    many_->slices.push_back(std::move(one_));
  }
  many_->bytes += slice.size();
  if (!many_->slices.back().Join(slice)) many_->slices.push_back(std::move(slice));
}

void Rope::CopyMany(const Many& many) { many_ = new Many(many); }

void Rope::DropMany() {
  delete many_;
  many_ = nullptr;
}

}  // namespace io
