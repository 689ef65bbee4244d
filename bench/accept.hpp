// The bars that the shortcut's speed is held to. A point holds when its 95 % interval reaches the bar.
#pragma once

#include <bench/environment.hpp>
#include <bench/schedule.hpp>

namespace shunt::bench {

// Adds "bars" to the document; true if all hold. A bar whose cell was not measured does not hold.
bool judge_bars(Json* document);

}  // namespace shunt::bench
