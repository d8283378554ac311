"""Control of the fleet by operators: the status, the switch, the deny list, resets."""
