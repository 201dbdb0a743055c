#include "proxy/resolver.h"

#include <condition_variable>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "proxy/messages.h"

namespace proxy {
namespace {

using testing::IsEmpty;
using testing::Not;

// Counts the messages; lets the test wait for the next.
class WaitingPoster final : public io::Poster {
 public:
  void Post(io::RingId receiver, io::Message message) override {
    EXPECT_EQ(receiver, kControlRing);
    EXPECT_EQ(message.kind, static_cast<uint8_t>(MessageKind::kResolved));
    std::lock_guard<std::mutex> lock(mutex_);
    ++messages_;
    posted_.notify_all();
  }
  void WaitFor(int messages) {
    std::unique_lock<std::mutex> lock(mutex_);
    posted_.wait(lock, [&] { return messages_ >= messages; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable posted_;
  int messages_ = 0;
};

class ResolverTest : public testing::Test {
 protected:
  Resolved Take() {
    Resolved result;
    EXPECT_TRUE(resolver_->Take(&result));
    return result;
  }
  Resolved Resolve(absl::string_view name) {
    resolver_->Ask(name);
    poster_.WaitFor(++messages_);
    return Take();
  }

  WaitingPoster poster_;
  int messages_ = 0;
  std::unique_ptr<Resolver> resolver_ = MakeThreadResolver(&poster_, kControlRing);
};

TEST_F(ResolverTest, HasNothingBeforeItIsAsked) {
  Resolved result;
  EXPECT_FALSE(resolver_->Take(&result));
}

TEST_F(ResolverTest, LiteralsAreTheirOwnAddress) {
  for (const std::string text : {"127.0.0.1", "::1", "10.1.2.3"}) {
    SCOPED_TRACE(text);
    const Resolved result = Resolve(text);
    EXPECT_EQ(result.name, text);
    ASSERT_EQ(result.addresses.size(), 1u);
    EXPECT_EQ(result.addresses[0], *io::Endpoint::FromIp(text, 0));
  }
}

TEST_F(ResolverTest, LocalhostIsALoopbackAddress) {
  const Resolved result = Resolve("localhost");
  EXPECT_EQ(result.name, "localhost");
  ASSERT_THAT(result.addresses, Not(IsEmpty())) << result.error;
  for (const io::Endpoint& address : result.addresses) {
    EXPECT_TRUE(address == *io::Endpoint::FromIp("127.0.0.1", 0) ||
                address == *io::Endpoint::FromIp("::1", 0))
        << address.ToString();
  }
}

TEST_F(ResolverTest, WhatIsNoNameFailsWithAReason) {
  for (const std::string& text :
       {std::string(), std::string("?"), std::string("a b"), std::string("a\0b", 3),
        std::string(256, 'a'), std::string("*"), std::string("127.0.0.1:80")}) {
    SCOPED_TRACE(text);
    const Resolved result = Resolve(text);
    EXPECT_EQ(result.name, text);
    EXPECT_THAT(result.addresses, IsEmpty());
    EXPECT_THAT(result.error, Not(IsEmpty()));
  }
}

// Names under .invalid never exist (RFC 6761, section 6.4); without a name server they don't
// either.
TEST_F(ResolverTest, UnknownNamesFailWithAReason) {
  const Resolved result = Resolve("no-such-host.invalid");
  EXPECT_THAT(result.addresses, IsEmpty());
  EXPECT_THAT(result.error, Not(IsEmpty()));
}

TEST_F(ResolverTest, EachAskHasOneResultAlsoOfAJoinedLookUp) {
  constexpr int kAsks = 20;
  for (int i = 0; i < kAsks; ++i) resolver_->Ask("localhost");
  int results = 0;
  // A message says that there are results, not how many.
  for (int messages = 1; results < kAsks; ++messages) {
    poster_.WaitFor(messages);
    Resolved result;
    while (resolver_->Take(&result)) {
      EXPECT_EQ(result.name, "localhost");
      EXPECT_THAT(result.addresses, Not(IsEmpty()));
      ++results;
    }
  }
  EXPECT_EQ(results, kAsks);
  Resolved result;
  EXPECT_FALSE(resolver_->Take(&result));
}

TEST_F(ResolverTest, EndsWhileLookUpsRun) {
  for (int i = 0; i < 10; ++i) resolver_->Ask("host" + std::to_string(i) + ".invalid");
  resolver_.reset();
}

}  // namespace
}  // namespace proxy
