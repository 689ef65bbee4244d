#include <gtest/gtest.h>
#include <signal.h>

#include "ktls/faults.hpp"

int main(int argc, char** argv) {
  shunt::test::hook_allocations();
  signal(SIGPIPE, SIG_IGN);
  testing::InitGoogleTest(&argc, argv);
  return RUN_ALL_TESTS();
}
