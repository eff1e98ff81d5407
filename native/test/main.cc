// Runs every registered test; the first failure ends the run with a message and SIGABRT.
// COUPLET_TEST_SEED repeats a run's random numbers.
#include <random>

#include "check.h"

int main() {
  using namespace couplet::test;
  const char* given = getenv("COUPLET_TEST_SEED");
  seed = given != nullptr ? strtoull(given, nullptr, 10) : std::random_device()();
  printf("COUPLET_TEST_SEED=%llu\n", static_cast<unsigned long long>(seed));
  for (const Test& test : tests()) {
    printf("- %s\n", test.name);
    fflush(stdout);
    context = "COUPLET_TEST_SEED=" + std::to_string(seed);
    test.run();
  }
  printf("%zu native unit tests passed\n", tests().size());
}
