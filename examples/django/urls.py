from django.urls import path
from messages import views

urlpatterns = [path("messages", views.post_message), path("counts", views.counts)]
