#include "proxy/topology_refresh.h"
