#include <random>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "io/buffer_pool.h"
#include "io/connection.h"

namespace io {
namespace {

std::string Text(const std::vector<iovec>& parts) {
  std::string text;
  for (const iovec& part : parts)
    text.append(static_cast<const char*>(part.iov_base), part.iov_len);
  return text;
}

TEST(SendQueueTest, NeighboursAreJoinedAndOthersKeptApart) {
  BlockPool pool(64, 2);
  Arena arena(&pool);
  SendQueue queue;
  queue.Push(arena.Copy("ab"));
  queue.Push(arena.Copy("cd"));
  queue.Push(Slice());
  queue.Push(Slice::Static("xy"));
  queue.Push(arena.Copy("ef"));
  EXPECT_EQ(queue.slice_count(), 3u);
  EXPECT_EQ(queue.bytes(), 8u);
  EXPECT_EQ(queue.front().bytes(), "abcd");
  std::vector<iovec> parts(5);  // what they held before doesn't matter
  EXPECT_EQ(queue.Gather(100, &parts), 8u);
  EXPECT_EQ(Text(parts), "abcdxyef");
}

TEST(SendQueueTest, WhatIsCopiedInARowIsOneSliceWithOneShare) {
  BlockPool pool(64, 2);
  Arena arena(&pool);
  SendQueue queue;
  const std::string text = "some bytes";
  queue.PushCopy(text, &arena);
  queue.PushCopy("and more", &arena);
  EXPECT_EQ(queue.slice_count(), 1u);
  EXPECT_EQ(queue.front().bytes(), "some bytesand more");
  EXPECT_EQ(arena.block()->refs, 2u);
  // Behind another slice, behind a copy for somebody else, and into another block.
  queue.Push(Slice::Static("xy"));
  queue.PushCopy("a", &arena);
  const Slice other = arena.Copy("b");
  queue.PushCopy("c", &arena);
  EXPECT_EQ(queue.slice_count(), 4u);
  queue.PushCopy(std::string(60, 'd'), &arena);
  EXPECT_EQ(queue.slice_count(), 5u);
  EXPECT_EQ(pool.in_use(), 2u);
  std::vector<iovec> parts;
  EXPECT_EQ(queue.Gather(1000, &parts), queue.bytes());
  EXPECT_EQ(Text(parts), "some bytesand morexyac" + std::string(60, 'd'));
  // Of a slice that is partly sent, the rest takes the next bytes in.
  queue.Consume(queue.bytes() - 1);
  EXPECT_EQ(queue.slice_count(), 1u);
  queue.PushCopy("ef", &arena);
  EXPECT_EQ(queue.front().bytes(), "def");
  queue.Consume(3);
  arena.Release();
  EXPECT_EQ(pool.in_use(), 1u);  // `other` has it
}

TEST(SendQueueTest, GatherTakesAtMostTheBytesAndPartsAllowed) {
  SendQueue queue;
  for (int i = 0; i < 2000; ++i) queue.Push(Slice::Static("abc"));
  std::vector<iovec> parts;
  EXPECT_EQ(queue.Gather(7, &parts), 7u);
  EXPECT_EQ(Text(parts), "abcabca");
  EXPECT_EQ(queue.Gather(1 << 20, &parts), 3u * 1024);
  EXPECT_EQ(parts.size(), 1024u);
  EXPECT_EQ(queue.bytes(), 6000u);
  EXPECT_EQ(queue.Gather(0, &parts), 0u);
}

TEST(SendQueueTest, BytesBeforeStopsAtTheFirstLargeSlice) {
  SendQueue queue;
  EXPECT_EQ(queue.BytesBefore(4), 0u);
  queue.Push(Slice::Static("abc"));
  queue.Push(Slice::Static("de"));
  EXPECT_EQ(queue.BytesBefore(4), 5u);
  queue.Push(Slice::Static("long"));
  queue.Push(Slice::Static("f"));
  EXPECT_EQ(queue.BytesBefore(4), 5u);
  queue.Consume(5);
  EXPECT_EQ(queue.BytesBefore(4), 0u);
  queue.Consume(1);  // what is left of it is large no more
  EXPECT_EQ(queue.BytesBefore(4), 4u);
}

TEST(SendQueueTest, SharesGoWhenTheirBytesAreTakenOutOrCutOff) {
  BlockPool pool(4, 8);
  SendQueue queue;
  for (const char* text : {"abcd", "efgh", "ijkl"}) {
    Arena arena(&pool);
    queue.Push(arena.Copy(text));
  }
  EXPECT_EQ(pool.in_use(), 3u);
  queue.Consume(3);
  EXPECT_EQ(pool.in_use(), 3u);
  queue.Consume(1);
  EXPECT_EQ(pool.in_use(), 2u);
  queue.Truncate(5);
  EXPECT_EQ(pool.in_use(), 2u);
  queue.Truncate(4);
  EXPECT_EQ(pool.in_use(), 1u);
  EXPECT_EQ(queue.front().bytes(), "efgh");
  queue.Clear();
  EXPECT_EQ(pool.in_use(), 0u);
  EXPECT_TRUE(queue.empty());
}

TEST(SendQueueTest, RandomUseAgreesWithAString) {
  BlockPool pool(512, 8);
  Arena arena(&pool);
  std::mt19937 random(11);
  SendQueue queue;
  std::string expected;
  std::vector<iovec> parts;
  for (int step = 0; step < 30'000; ++step) {
    switch (random() % 8) {
      case 0:
      case 1: {
        const size_t n = expected.empty() ? 0 : random() % (expected.size() + 1);
        queue.Consume(n);
        expected.erase(0, n);
        break;
      }
      case 2:
        if (random() % 20 != 0) break;
        queue.Truncate(expected.size() / 2);
        expected.resize(expected.size() / 2);
        break;
      default: {
        const std::string text(random() % 40, static_cast<char>('a' + random() % 26));
        if (random() % 4 == 0) {
          Rope rope;
          rope.Append(CopyToHeap(text));
          rope.Append(arena.Copy(text));
          queue.Push(rope);
          expected += text + text;
        } else {
          queue.Push(arena.Copy(text));
          expected += text;
        }
      }
    }
    ASSERT_EQ(queue.bytes(), expected.size());
    ASSERT_EQ(queue.empty(), expected.empty());
    if (step % 16 != 0) continue;
    const size_t most = random() % 3000;
    const size_t n = queue.Gather(most, &parts);
    ASSERT_EQ(Text(parts), expected.substr(0, n));
    if (parts.size() < 1024) {
      ASSERT_EQ(n, std::min(most, expected.size()));
    }
  }
  queue.Clear();
  arena.Release();
  EXPECT_EQ(pool.in_use(), 0u);
}

}  // namespace
}  // namespace io
