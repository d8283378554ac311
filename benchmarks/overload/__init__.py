"""Measures members' latency, the use of capacity and the operator's access while a botnet overloads the app."""
