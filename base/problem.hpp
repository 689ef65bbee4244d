// What is wrong with a text that somebody wrote, and where.
#pragma once

#include <string>

namespace shunt {

struct Problem {
  std::string file;
  int line = 0;  // from 1; 0: the whole file
  int column = 0;
  std::string message;
  std::string remedy;

  // "FILE:LINE:COLUMN: message (remedy)"
  std::string to_string() const {
    std::string text = file;
    if (line > 0) text += ":" + std::to_string(line) + ":" + std::to_string(column);
    text += ": " + message;
    return remedy.empty() ? text : text + " (" + remedy + ")";
  }
};

}  // namespace shunt
