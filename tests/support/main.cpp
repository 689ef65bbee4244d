#include <gtest/gtest.h>

#include "support/sandbox.hpp"

int main(int argc, char** argv) {
  testing::InitGoogleTest(&argc, argv);
  if (!testing::GTEST_FLAG(list_tests)) shunt::test::enter_sandbox();
  return RUN_ALL_TESTS();
}
