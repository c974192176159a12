"""Internal. The journal: every change of a job in SQL, and jobs out of it again, also where some of it is damaged."""
