#include "proxy/admin_server.h"
