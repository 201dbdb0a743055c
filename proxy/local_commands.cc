#include "proxy/local_commands.h"
