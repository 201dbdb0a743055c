// How long the proxy takes to write commands and replies of its own into a string that it reuses.
// An item is a command or a reply; bytes are those written.

#include <benchmark/benchmark.h>

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"
#include "microbench/rates.h"
#include "resp/encoder.h"

namespace {

// `write` is given the cleared string.
template <typename Write>
void Run(benchmark::State& state, const Write& write) {
  std::string out;
  write(&out);
  const auto bytes = static_cast<int64_t>(out.size());
  microbench::Rates rates(&state);
  for (auto _ : state) {
    out.clear();
    write(&out);
    benchmark::DoNotOptimize(out.data());
  }
  rates.Report(1, bytes);
}

template <typename Write>
void RunEncoder(benchmark::State& state, const Write& write) {
  Run(state, [&write](std::string* out) {
    resp::Encoder encoder(resp::Protocol::kResp3, out);
    write(&encoder);
  });
}

void BM_AppendCommand_Get(benchmark::State& state) {
  Run(state, [](std::string* out) { resp::AppendCommand({"GET", "key:000000000012"}, out); });
}
BENCHMARK(BM_AppendCommand_Get);

void BM_AppendCommand_Set(benchmark::State& state) {
  const std::string value(static_cast<size_t>(state.range(0)), 'v');
  Run(state, [&value](std::string* out) {
    resp::AppendCommand({"SET", "key:000000000012", value}, out);
  });
}
BENCHMARK(BM_AppendCommand_Set)->ArgName("value_bytes")->Arg(64)->Arg(4096);

// The header of a fragment, and that of a merged reply.
void BM_WriteHeader(benchmark::State& state) {
  int64_t n = 1;
  int64_t bytes = 0;
  char header[24];
  microbench::Rates rates(&state);
  for (auto _ : state) {
    bytes += static_cast<int64_t>(resp::WriteHeader('*', n, header));
    benchmark::DoNotOptimize(header);
    n = n % 1000 + 1;
  }
  rates.Report(1);
  state.SetBytesProcessed(bytes);
}
BENCHMARK(BM_WriteHeader);

void BM_Encode_Ok(benchmark::State& state) {
  RunEncoder(state, [](resp::Encoder* encoder) { encoder->Simple("OK"); });
}
BENCHMARK(BM_Encode_Ok);

void BM_Encode_Integer(benchmark::State& state) {
  int64_t n = 123456;
  RunEncoder(state, [&n](resp::Encoder* encoder) {
    benchmark::DoNotOptimize(n);
    encoder->Integer(n);
  });
}
BENCHMARK(BM_Encode_Integer);

void BM_Encode_Error(benchmark::State& state) {
  RunEncoder(state, [](resp::Encoder* encoder) {
    encoder->Error("CROSSSLOT Keys in request don't hash to the same slot");
  });
}
BENCHMARK(BM_Encode_Error);

void BM_Encode_Bulk(benchmark::State& state) {
  const std::string value(static_cast<size_t>(state.range(0)), 'v');
  RunEncoder(state, [&value](resp::Encoder* encoder) { encoder->Bulk(value); });
}
BENCHMARK(BM_Encode_Bulk)->ArgName("value_bytes")->Arg(64)->Arg(4096);

// As the proxy's own HELLO.
void BM_Encode_Map(benchmark::State& state) {
  RunEncoder(state, [](resp::Encoder* encoder) {
    encoder->Map(4);
    encoder->Bulk("server");
    encoder->Bulk("valkey");
    encoder->Bulk("proto");
    encoder->Integer(3);
    encoder->Bulk("mode");
    encoder->Bulk("standalone");
    encoder->Bulk("modules");
    encoder->Array(0);
  });
}
BENCHMARK(BM_Encode_Map);

}  // namespace
