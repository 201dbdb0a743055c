#pragma once

// File: proxy/args.h
//
// All arguments of one complete request, as views into it. For commands whose keys must be
// searched; the common ones get by with what the scanner recorded.

#include <cstdint>
#include <forward_list>
#include <string>
#include <utility>

#include "absl/container/inlined_vector.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "resp/views.h"

namespace proxy {

class ArgList {
 public:
  // The pieces' bytes live as long as the views.
  explicit ArgList(const resp::Pieces& pieces) {
    resp::ArgReader reader(pieces);
    views_.reserve(static_cast<size_t>(reader.count()));
    positions_.reserve(static_cast<size_t>(reader.count()));
    resp::ArgPosition position;
    size_t piece = 0;  // that the argument begins in: there may be very many of both
    uint64_t piece_begin = 0;
    while (reader.Next(&position)) {
      positions_.push_back(position);
      while (piece + 1 < pieces.size() && position.offset >= piece_begin + pieces[piece].size()) {
        piece_begin += pieces[piece++].size();
      }
      std::string copy;
      absl::string_view view = resp::ViewAt(
          pieces.subspan(piece), {position.offset - piece_begin, position.length}, &copy);
      if (!copy.empty()) {
        copies_.push_front(std::move(copy));
        view = copies_.front();
      }
      views_.push_back(view);
    }
  }
  ArgList(const ArgList&) = delete;
  ArgList& operator=(const ArgList&) = delete;

  absl::Span<const absl::string_view> views() const { return views_; }
  // The argument with its header and line ends, i > 0.
  resp::ArgPosition Raw(size_t i) const {
    const resp::ArgPosition& before = positions_[i - 1];
    const uint64_t begin = before.offset + before.length + 2;
    return {begin, positions_[i].offset + positions_[i].length + 2 - begin};
  }

 private:
  // Of an MSET of 100 keys, without memory of their own.
  static constexpr size_t kInlined = 201;
  absl::InlinedVector<absl::string_view, kInlined> views_;
  absl::InlinedVector<resp::ArgPosition, kInlined> positions_;
  std::forward_list<std::string> copies_;  // arguments that lie in several pieces
};

}  // namespace proxy
