#include "proxy/query_relay.h"

#include <memory>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace proxy {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

class QueryRelayTest : public testing::Test {
 protected:
  QueryRelayTest() {
    std::vector<WorkerMail*> mail;
    for (WorkerMail& each : mail_) mail.push_back(&each);
    relay_ = std::make_unique<QueryRelay>(
        std::move(mail),
        [this](uint32_t worker, MessageKind kind) { posts_.emplace_back(worker, kind); });
  }
  void Ask(uint32_t worker, uint64_t number) {
    ClientQuery query;
    query.worker = worker;
    query.number = number;
    relay_->OnQuery(std::move(query));
  }
  void Answer(uint32_t worker, uint32_t asked_by, uint64_t number, uint64_t clients) {
    ClientAnswer answer;
    answer.worker = worker;
    answer.asked_by = asked_by;
    answer.number = number;
    answer.clients = clients;
    relay_->OnAnswer(std::move(answer));
  }
  using Posts = std::vector<std::pair<uint32_t, MessageKind>>;
  Posts TakePosts() { return std::exchange(posts_, {}); }
  // Of the answer that the worker has got; -1: none.
  int64_t ClientsFor(uint32_t worker) {
    const auto answer = mail_[worker].answers.Take();
    return answer.has_value() ? static_cast<int64_t>(answer->clients) : -1;
  }

  WorkerMail mail_[3];
  Posts posts_;
  std::unique_ptr<QueryRelay> relay_;
};

TEST_F(QueryRelayTest, AllAreAskedAndTheirAnswersAreOne) {
  Ask(1, 7);
  EXPECT_THAT(TakePosts(),
              ElementsAre(Pair(0, MessageKind::kClientQuery), Pair(1, MessageKind::kClientQuery),
                          Pair(2, MessageKind::kClientQuery)));
  Answer(2, 1, 7, 1);
  Answer(0, 1, 7, 2);
  EXPECT_THAT(TakePosts(), IsEmpty());
  Answer(1, 1, 7, 4);
  EXPECT_THAT(TakePosts(), ElementsAre(Pair(1, MessageKind::kClientAnswer)));
  EXPECT_EQ(ClientsFor(1), 7);
}

TEST_F(QueryRelayTest, OneAnswerCountsOnce) {
  Ask(0, 1);
  Answer(1, 0, 1, 1);
  Answer(1, 0, 1, 1);
  Answer(1, 0, 1, 1);
  EXPECT_EQ(ClientsFor(0), -1);
}

TEST_F(QueryRelayTest, WhoEndsIsNotWaitedForAndNotAskedAgain) {
  Ask(0, 1);
  Answer(0, 0, 1, 1);
  relay_->OnWorkerGone(2);
  EXPECT_EQ(ClientsFor(0), -1);
  Answer(1, 0, 1, 1);
  EXPECT_EQ(ClientsFor(0), 2);
  TakePosts();
  Ask(1, 1);
  EXPECT_THAT(TakePosts(),
              ElementsAre(Pair(0, MessageKind::kClientQuery), Pair(1, MessageKind::kClientQuery)));
  relay_->OnWorkerGone(0);
  relay_->OnWorkerGone(0);
  Answer(1, 1, 1, 1);
  EXPECT_EQ(ClientsFor(1), 1);
}

TEST_F(QueryRelayTest, AnAnswerToAQueryThatWasGivenUpIsNoneToTheNext) {
  Ask(0, 1);
  Answer(1, 0, 1, 10);
  Ask(0, 2);
  Answer(2, 0, 1, 10);
  for (uint32_t worker = 0; worker < 3; ++worker) Answer(worker, 0, 2, 1);
  EXPECT_EQ(ClientsFor(0), 3);
}

TEST_F(QueryRelayTest, QueriesOfSeveralWorkersAreApart) {
  Ask(0, 1);
  Ask(1, 1);
  for (uint32_t worker = 0; worker < 3; ++worker) Answer(worker, 1, 1, 1);
  EXPECT_EQ(ClientsFor(0), -1);
  EXPECT_EQ(ClientsFor(1), 3);
  for (uint32_t worker = 0; worker < 3; ++worker) Answer(worker, 0, 1, 2);
  EXPECT_EQ(ClientsFor(0), 6);
}

}  // namespace
}  // namespace proxy
