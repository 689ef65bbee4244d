// Writes a minimized automaton in the layout of bpf/abi/policy.h.
#pragma once

#include <policy/automaton.hpp>
#include <policy/classes.hpp>
#include <policy/minimize.hpp>
#include <vector>

namespace shunt::policy {

// For a table that will be changed: a column for each class, even where two lead to the same everywhere, and rows that
// are free among those of states that no printable byte leads out of.
struct TableLayout {
  bool for_changes = false;
  uint32_t spare_rows = 0;
};

// Labels are the classes and, behind them, the symbols. `start_header`: UINT32_MAX if there is none. Returns the row of
// each minimized state; spare rows are those before set.first_open that none has.
std::vector<sh_u16> write_cells(const Minimized& minimized, const Classes& classes, uint32_t start,
                                uint32_t start_header, const TableLayout& layout, Automaton& automaton);

// Spares the matcher to read methods.
void write_methods(Automaton& automaton);

// Classes with a printable byte.
std::vector<uint8_t> printable_classes(const Classes& classes);

}  // namespace shunt::policy
