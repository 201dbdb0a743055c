#include "proxy/stats.h"
