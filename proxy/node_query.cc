#include "proxy/node_query.h"
